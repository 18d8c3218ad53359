"""Keeps the bars of a caller's file in the store, from where every process reads them.

A file that a process can see is read again when its size or modification time changes. A process
that cannot see it, on another machine, has the bars that were read last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mlops.data.bars import Bars, content_hash
from mlops.data.calendar import load_calendar
from mlops.data.file_options import BarsChoice
from mlops.data.load import load_bars
from mlops.data.sources.base import BarSource
from mlops.data.sources.files import FileSource
from mlops.data.sources.frames import FrameSource
from mlops.errors import SourceError
from mlops.service import Service, Timeframe
from mlops.store import Store
from mlops.store.markets import BarFile, get_bar_file, put_bars, read_chunks

CHUNK_BARS = 8192
"""Most bars of a chunk; some 300 KB."""


@dataclass(frozen=True, slots=True)
class FileState:
    """Size (bytes) and modification time (ns since 1970) of a file."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path | str) -> FileState | None:
        """The state of a file now; None where this process cannot see it."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns)

    def is_that_of(self, kept: BarFile | None) -> bool:
        """Whether the kept bars were read from the file as it is."""
        return kept is not None and (kept.size, kept.modified_ns) == (self.size, self.modified_ns)


def identify_file(choice: BarsChoice, timeframe: Timeframe) -> str:
    """The id of a file's kept bars: of its path, of how it is read, and of the timeframe."""
    options = choice.file_options.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps([choice.bars_file, options, timeframe.name], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_chosen_bars(
    store: Callable[[], Store],
    service: Service,
    choice: BarsChoice,
    *,
    cache_root: Path,
    start: datetime | None = None,
    now: datetime | None = None,
    exchange_base_url: str | None = None,
) -> Bars:
    """The bars of a service in a period: of its venue, or of the chosen file.

    Args:
        store: Opens the store, which has the bars of a file that this machine does not have.

    Raises:
        SourceError: when the source cannot be read; a file is neither here nor in the store.
        BarsError: when its bars break the contract.
    """
    return load_bars(
        service,
        cache_root=cache_root,
        start=start,
        now=now,
        source=None if choice.bars_file is None else _open_file(store, service, choice),
        exchange_base_url=exchange_base_url,
        calendar=load_calendar(choice.calendar) if choice.calendar else None,
    )


def _open_file(store: Callable[[], Store], service: Service, choice: BarsChoice) -> BarSource:
    path = str(choice.bars_file)
    if Path(path).exists():
        return FileSource(path=path, **choice.file_options.model_dump())
    file_id = identify_file(choice, service.timeframe)
    if get_bar_file(store(), file_id) is None:
        raise SourceError(
            f"no file {path} on this machine, and no bars of it in the store; pass bars_file= "
            "with the whole path of a file that is here"
        )
    return FrameSource(read_kept_bars(store(), file_id), "file", f"from {Path(path).name}")


def keep_file(
    store: Store, service: Service, choice: BarsChoice, *, cache_root: Path, state: FileState
) -> None:
    """Read a whole file and keep its bars in the store.

    Args:
        state: Of the file, before it is read: a later change is noticed at the next look.

    Raises:
        DataError: when the file cannot be read, or its bars break the contract.
    """
    bars = load_chosen_bars(lambda: store, service, choice, cache_root=cache_root)
    chunks = encode_bars(bars.frame, service.timeframe)
    row = BarFile(
        id=identify_file(choice, service.timeframe),
        path=str(choice.bars_file),
        digest=bars.content_hash,
        bars=len(bars.frame),
        last_close=(bars.frame.index[-1] + service.timeframe.step).to_pydatetime(),
        chunks=list(chunks),
        size=state.size,
        modified_ns=state.modified_ns,
        read_at=datetime.now(UTC),
    )
    put_bars(store, row, chunks)


def encode_bars(frame: pd.DataFrame, timeframe: Timeframe) -> Mapping[str, bytes]:
    """Chunks of bars as Parquet by their content hash, oldest first.

    They are cut at fixed times, so that bars that come or go at one end leave the others alone.
    """
    span = CHUNK_BARS * pd.Timedelta(timeframe.step).value
    opened = pd.DatetimeIndex(frame.index).as_unit("ns").asi8
    chunks: dict[str, bytes] = {}
    for _, part in frame.groupby(opened // span):
        content = io.BytesIO()
        part.to_parquet(content, compression="zstd")
        chunks[content_hash(part)] = content.getvalue()
    return chunks


def read_kept_bars(store: Store, file_id: str, newest: int | None = None) -> pd.DataFrame:
    """The kept bars of a file, oldest first.

    Args:
        newest: At least so many of the newest bars, where there are; by default all.
    """
    # Closed hours leave chunks with fewer bars, and the last one is being filled.
    count = None if newest is None else 2
    while True:
        chunks = read_chunks(store, file_id, count)
        frame = pd.concat([pd.read_parquet(io.BytesIO(chunk)) for chunk in chunks])
        if newest is None or count is None or len(frame) >= newest or len(chunks) < count:
            return frame
        count *= 2
