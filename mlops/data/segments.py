"""One market's bars on disk: Parquet segments named by their content, and a head that lists them.

A segment is written first and the head replaced after it, atomically, so that a process killed
at any moment leaves the last whole state. Writers hold the lock; readers need none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from mlops.data.bars import COLUMNS, content_hash
from mlops.errors import SourceError

Interval = tuple[pd.Timestamp, pd.Timestamp]
READ_TRIES = 5
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file; its name is its content hash, ``first`` and ``last`` are opens (ISO)."""

    sha256: str
    rows: int
    first: str
    last: str

    def touches(self, page: pd.DataFrame) -> bool:
        """Whether it may hold a bar of the page."""
        first, last = pd.Timestamp(self.first), pd.Timestamp(self.last)
        return bool(first <= page.index[-1] and page.index[0] <= last)


@dataclass(frozen=True, slots=True)
class Head:
    """The state of a series; of two segments with the same bar the later listed one is right.

    ``coverage`` are the ``[start, end)`` of opens the venue was asked for; ``revised`` counts
    stored bars the venue later sent with other values.
    """

    segments: tuple[Segment, ...] = ()
    coverage: tuple[Interval, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    revised: int = 0
    fetched_at: pd.Timestamp | None = None

    def gaps(self, start: pd.Timestamp, end: pd.Timestamp) -> tuple[Interval, ...]:
        """The parts of ``[start, end)`` not covered."""
        found, at = [], start
        for low, high in self.coverage:
            if low > at and at < end:
                found.append((at, min(low, end)))
            at = max(at, high)
        if at < end:
            found.append((at, end))
        return tuple(found)

    def covering(self, start: pd.Timestamp, end: pd.Timestamp) -> Head:
        """The head with one more interval covered; touching intervals become one."""
        joined: list[Interval] = []
        for low, high in sorted([*self.coverage, (start, end)]):
            if joined and low <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        return replace(self, coverage=tuple(joined))


@dataclass(frozen=True, slots=True)
class Series:
    """The stored bars of one venue, symbol and timeframe."""

    folder: Path

    @contextmanager
    def lock(self, timeout_s: float) -> Iterator[None]:
        """The writers' lock, held across processes.

        Raises:
            SourceError: when another process keeps it longer than ``timeout_s``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=timeout_s)
        except Timeout as error:
            raise SourceError(
                f"another process has been fetching into {self.folder} for {timeout_s:g} s; "
                "wait for it or stop it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def head(self) -> Head:
        path = self.folder / "head.json"
        return _parse(path) if path.exists() else Head()

    def read(self) -> tuple[Head, pd.DataFrame]:
        """The head and all its bars, sorted.

        A writer may merge segments meanwhile; then the new head is read.
        """
        for _ in range(READ_TRIES):
            head = self.head()
            try:
                return head, _joined([self._load(segment) for segment in head.segments])
            except FileNotFoundError:
                continue
        raise SourceError(f"segments named in {self.folder}/head.json are gone; delete the folder")

    def append(self, page: pd.DataFrame, head: Head) -> Head:
        """Store a clean page and the head that goes with it; the lock must be held.

        Bars already stored with the same values cost nothing; a differing one replaces the
        stored bar and is counted as revised.
        """
        fresh, revised = self._news(page, head)
        segments = list(head.segments)
        if len(fresh):
            # Merging a segment no more than twice the new one keeps few files and few rewrites.
            while segments and segments[-1].rows <= 2 * len(fresh):
                fresh = _joined([self._load(segments.pop()), fresh])
            segments.append(self._store(fresh))
        new = replace(head, segments=tuple(segments), revised=head.revised + revised)
        self.commit(new)
        return new

    def commit(self, head: Head) -> None:
        """Make ``head`` the state of the series and drop the files it no longer names."""
        content = json.dumps(_plain(head), indent=1).encode()
        _replace_file(self.folder / "head.json", lambda path: path.write_bytes(content))
        named = {f"{segment.sha256}.parquet" for segment in head.segments}
        for path in self.folder.iterdir():
            if path.suffix in (".parquet", ".part") and path.name not in named:
                path.unlink(missing_ok=True)

    def _news(self, page: pd.DataFrame, head: Head) -> tuple[pd.DataFrame, int]:
        """The page's bars that are new or differ from the stored ones, and how many differ."""
        stored_bars = _joined([self._load(one) for one in head.segments if one.touches(page)])
        known = page.index.isin(stored_bars.index)
        stored = stored_bars.reindex(page.index).to_numpy()
        differs = np.any(stored != page.to_numpy(), axis=1)
        return page[differs], int(np.sum(differs & known))

    def _load(self, segment: Segment) -> pd.DataFrame:
        path = self.folder / f"{segment.sha256}.parquet"
        frame = pd.read_parquet(path)
        if content_hash(frame) != segment.sha256:
            raise SourceError(f"{path} was altered; delete its folder and fetch again")
        return frame

    def _store(self, frame: pd.DataFrame) -> Segment:
        first, last = frame.index[0].isoformat(), frame.index[-1].isoformat()
        segment = Segment(content_hash(frame), len(frame), first, last)
        path = self.folder / f"{segment.sha256}.parquet"
        _replace_file(path, lambda part: frame.to_parquet(part, compression="zstd"))
        return segment


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        empty = pd.DatetimeIndex([], tz="UTC", name="open_time").as_unit("ns")
        return pd.DataFrame(columns=list(COLUMNS), index=empty, dtype="float64")
    joined = pd.concat(frames)
    return joined[~joined.index.duplicated(keep="last")].sort_index()


def _replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, flush to disk, rename over: the file is whole or absent."""
    part = path.with_name(path.name + ".part")
    write(part)
    with part.open("rb+") as handle:
        os.fsync(handle.fileno())
    part.replace(path)


def _plain(head: Head) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "segments": [asdict(segment) for segment in head.segments],
        "coverage": [[low.isoformat(), high.isoformat()] for low, high in head.coverage],
        "dropped": dict(head.dropped),
        "revised": head.revised,
        "fetched_at": head.fetched_at.isoformat() if head.fetched_at is not None else None,
    }


def _parse(path: Path) -> Head:
    plain = json.loads(path.read_bytes())
    if plain.get("format") != _FORMAT:
        raise SourceError(
            f"{path} has format {plain.get('format')!r}, this version reads {_FORMAT}; "
            "delete its folder and fetch again"
        )
    return Head(
        segments=tuple(Segment(**segment) for segment in plain["segments"]),
        coverage=tuple((pd.Timestamp(low), pd.Timestamp(high)) for low, high in plain["coverage"]),
        dropped=plain["dropped"],
        revised=plain["revised"],
        fetched_at=pd.Timestamp(plain["fetched_at"]) if plain["fetched_at"] else None,
    )
