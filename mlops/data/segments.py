"""One market's bars on disk: Parquet segments named by their content, and a head that lists them.

A writer first writes a segment and then replaces the head atomically, so that a process killed
at any moment leaves the last complete state. Writers hold a lock across processes; readers need
none.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
KEPT_INVALID = 1000
"""So many open times of invalid candles are kept, the newest."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file; its name is its content hash, ``first`` and ``last`` are opens (ISO)."""

    sha256: str
    rows: int
    first: str
    last: str

    def touches(self, page: pd.DataFrame) -> bool:
        """Whether the segment may hold a bar of the page."""
        first, last = pd.Timestamp(self.first), pd.Timestamp(self.last)
        return bool(first <= page.index[-1] and page.index[0] <= last)


@dataclass(frozen=True, slots=True)
class Head:
    """The state of a series; where two segments hold the same bar, the later listed one counts.

    ``coverage`` lists the fetched intervals ``[start, end)`` of opens; ``dropped`` counts rows
    by reason; ``revised`` counts stored bars that the venue later sent with other values.
    ``invalid`` holds the opens of candles that are counted as invalid, so that none is counted
    twice; ``searched`` is an interval in which a fetch that was not finished found no bar yet.
    """

    segments: tuple[Segment, ...] = ()
    coverage: tuple[Interval, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    revised: int = 0
    fetched_at: pd.Timestamp | None = None
    invalid: tuple[pd.Timestamp, ...] = ()
    searched: Interval | None = None

    def gaps(self, start: pd.Timestamp, end: pd.Timestamp) -> tuple[Interval, ...]:
        """The parts of ``[start, end)`` that are not covered."""
        gaps, covered_to = [], start
        for low, high in self.coverage:
            if low > covered_to and covered_to < end:
                gaps.append((covered_to, min(low, end)))
            covered_to = max(covered_to, high)
        if covered_to < end:
            gaps.append((covered_to, end))
        return tuple(gaps)

    def covering(self, start: pd.Timestamp, end: pd.Timestamp) -> Head:
        """The head with one more interval covered; touching intervals are merged."""
        joined: list[Interval] = []
        for low, high in sorted([*self.coverage, (start, end)]):
            if joined and low <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        return replace(self, coverage=tuple(joined))

    def counting(self, dropped: Mapping[str, int]) -> Head:
        """The head with more rows counted as dropped."""
        return replace(self, dropped=dict(Counter(self.dropped) + Counter(dropped)))

    def knows(self, opened: pd.Timestamp) -> bool:
        """Whether an open is covered, or counted as that of an invalid candle."""
        return opened in self.invalid or any(low <= opened < high for low, high in self.coverage)

    def with_invalid(self, new: Iterable[pd.Timestamp], sound: pd.DatetimeIndex) -> Head:
        """The head with the invalid candles counted.

        Args:
            new: Opens of invalid candles that the head does not know.
            sound: Opens of bars; one that was counted as invalid has been repaired since.
        """
        repaired = set(self.invalid).intersection(sound)
        added = set(new)
        counts = Counter(self.dropped)
        counts["invalid"] += len(added) - len(repaired)
        kept = sorted((set(self.invalid) | added) - repaired)[-KEPT_INVALID:]
        return replace(self, dropped=dict(+counts), invalid=tuple(kept))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": _FORMAT,
            "segments": [asdict(segment) for segment in self.segments],
            "coverage": [[low.isoformat(), high.isoformat()] for low, high in self.coverage],
            "dropped": dict(self.dropped),
            "revised": self.revised,
            "fetched_at": self.fetched_at.isoformat() if self.fetched_at is not None else None,
            "invalid": [opened.isoformat() for opened in self.invalid],
            "searched": [moment.isoformat() for moment in self.searched] if self.searched else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Head:
        """Read `to_dict` back from JSON."""
        return cls(
            segments=tuple(Segment(**segment) for segment in data["segments"]),
            coverage=tuple(_read_interval(entry) for entry in data["coverage"]),
            dropped=data["dropped"],
            revised=data["revised"],
            fetched_at=pd.Timestamp(data["fetched_at"]) if data["fetched_at"] else None,
            # Heads of earlier releases have neither.
            invalid=tuple(pd.Timestamp(opened) for opened in data.get("invalid", ())),
            searched=_read_interval(data["searched"]) if data.get("searched") else None,
        )


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
        """The current head; an empty one where nothing is stored.

        Raises:
            SourceError: when another release of this library wrote it.
        """
        path = self.folder / "head.json"
        if not path.exists():
            return Head()
        data = json.loads(path.read_bytes())
        if data.get("format") != _FORMAT:
            raise SourceError(
                f"{path} has format {data.get('format')!r}, this version reads {_FORMAT}; "
                "delete its folder and fetch again"
            )
        return Head.from_dict(data)

    def read(self) -> tuple[Head, pd.DataFrame]:
        """The head and all its bars, sorted.

        Where a writer merges segments during the read, the new head is read instead.

        Raises:
            SourceError: when a segment is missing or altered.
        """
        for _ in range(READ_TRIES):
            head = self.head()
            try:
                return head, _merge([self._load(segment) for segment in head.segments])
            except FileNotFoundError:
                continue
        raise SourceError(f"segments named in {self.folder}/head.json are gone; delete the folder")

    def append(self, page: pd.DataFrame, head: Head) -> Head:
        """Store a clean page and commit the head with it; the caller holds the lock.

        Bars that are stored with the same values are skipped; a bar with other values replaces
        the stored bar and is counted as revised.
        """
        fresh, revised = self._find_changed_bars(page, head)
        segments = list(head.segments)
        if len(fresh):
            # Merging a segment no more than twice the new one keeps few files and few rewrites.
            while segments and segments[-1].rows <= 2 * len(fresh):
                fresh = _merge([self._load(segments.pop()), fresh])
            segments.append(self._write_segment(fresh))
        new = replace(head, segments=tuple(segments), revised=head.revised + revised)
        self.commit(new)
        return new

    def commit(self, head: Head) -> None:
        """Make ``head`` the state of the series and delete files that it does not name."""
        content = json.dumps(head.to_dict(), indent=1).encode()
        _replace_file(self.folder / "head.json", lambda path: path.write_bytes(content))
        named = {f"{segment.sha256}.parquet" for segment in head.segments}
        for path in self.folder.iterdir():
            if path.suffix in (".parquet", ".part") and path.name not in named:
                path.unlink(missing_ok=True)

    def _find_changed_bars(self, page: pd.DataFrame, head: Head) -> tuple[pd.DataFrame, int]:
        """The page's bars that are new or differ from the stored ones, and how many differ."""
        touched = [segment for segment in head.segments if segment.touches(page)]
        stored_bars = _merge([self._load(segment) for segment in touched])
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

    def _write_segment(self, frame: pd.DataFrame) -> Segment:
        first, last = frame.index[0].isoformat(), frame.index[-1].isoformat()
        segment = Segment(content_hash(frame), len(frame), first, last)
        path = self.folder / f"{segment.sha256}.parquet"
        _replace_file(path, lambda part: frame.to_parquet(part, compression="zstd"))
        return segment


def _read_interval(moments: Sequence[str]) -> Interval:
    low, high = moments
    return pd.Timestamp(low), pd.Timestamp(high)


def _merge(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """All bars, sorted; where two frames hold the same bar, that of the later frame."""
    if not frames:
        empty = pd.DatetimeIndex([], tz="UTC", name="open_time").as_unit("ns")
        return pd.DataFrame(columns=list(COLUMNS), index=empty, dtype="float64")
    joined = pd.concat(frames)
    return joined[~joined.index.duplicated(keep="last")].sort_index()


def _replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside, flush it to disk and rename it, so that no reader sees half a file."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    except OSError:
        # On a full disk half a file would take the space that the next try needs.
        part.unlink(missing_ok=True)
        raise
