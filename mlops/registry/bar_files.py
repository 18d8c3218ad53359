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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlops.data.acceptance import require_sound
from mlops.data.bars import Bars, QualityReport, content_hash
from mlops.data.file_options import BarsChoice
from mlops.data.findings import Findings
from mlops.data.load import load_bars
from mlops.data.sources.base import BarSource
from mlops.data.sources.files import FileSource
from mlops.data.sources.frames import FrameSource
from mlops.errors import BarsError, SourceError
from mlops.service import Service, Timeframe
from mlops.store import Store
from mlops.store.markets import BarFile, get_bar_file, put_bars, read_chunks, touch_bar_file

CHUNK_BARS = 8192
"""Most bars of a chunk; some 300 KB."""

LEAST_COMMON = 10
"""A file that begins before the kept bars end has at least so many of them."""

SAME_RATIO = 1e-6
MAX_MOVED_SHARE = 0.1
"""Of the closes, adjusted or not, at most this share may move by another ratio than the kept."""


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


def identify_file(service: Service, choice: BarsChoice) -> str:
    """The id of the kept bars of a market: of what is traded, and of the file and how it is read.

    Services of one market and one file share it.
    """
    options = choice.file_options.model_dump(mode="json", exclude_defaults=True)
    market = [service.venue, service.symbol, service.timeframe.name]
    text = json.dumps([*market, choice.bars_file, options], sort_keys=True)
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
    path = choice.bars_file
    kept = None
    source: BarSource | None = None
    if path is not None and Path(path).exists():
        source = FileSource(path=path, **choice.file_options.model_dump())
    elif path is not None:
        kept = _get_kept(store(), service, choice)
        frame = read_kept_bars(store(), kept.id)
        source = FrameSource(frame, "file", f"from {Path(path).name}")
    bars = load_bars(
        service,
        cache_root=cache_root,
        start=start,
        now=now,
        source=source,
        exchange_base_url=exchange_base_url,
        calendar=choice.calendar,
    )
    return bars if kept is None else replace(bars, quality=_recall_found(bars.quality, kept))


def _get_kept(store: Store, service: Service, choice: BarsChoice) -> BarFile:
    kept = get_bar_file(store, identify_file(service, choice))
    if kept is None:
        raise SourceError(
            f"no file {choice.bars_file} on this machine, and no bars of it in the store; pass "
            "bars_file= with the whole path of a file that is here"
        )
    return kept


_FOUND = ("rows_in", "dropped", "reordered", "rebuilt")
"""What a report says of the rows of a file, and clean bars do not show any more."""


def _note_found(report: QualityReport) -> dict[str, Any]:
    first = {reason: at.isoformat() for reason, at in report.first_dropped.items()}
    return {name: getattr(report, name) for name in _FOUND} | {"first_dropped": first}


def _recall_found(report: QualityReport, kept: BarFile) -> QualityReport:
    """The report on kept bars, with what was found when the file was read."""
    first = {reason: pd.Timestamp(at) for reason, at in kept.found["first_dropped"].items()}
    return replace(report, first_dropped=first, **{name: kept.found[name] for name in _FOUND})


def keep_file(store: Store, service: Service, choice: BarsChoice, *, cache_root: Path) -> bool:
    """Keep the bars of a file in the store, where it is here and has changed.

    A file whose bars are kept already must go on from them: a file of another market, or one that
    is being written, does not replace them.

    Returns:
        Whether the kept bars changed.

    Raises:
        DataError: when the file cannot be read, or its bars break the contract or do not go on
            from those that are kept.
    """
    file_id, path = identify_file(service, choice), str(choice.bars_file)
    state, kept = FileState.of(path), get_bar_file(store, file_id)
    if state is None or state.is_that_of(kept):
        if state is not None:
            touch_bar_file(store, file_id, datetime.now(UTC))
        return False
    bars = load_chosen_bars(lambda: store, service, choice, cache_root=cache_root)
    if FileState.of(path) != state:
        raise SourceError(f"{path} changed while it was read; it is read again once it is still")
    require_sound(Findings.of(bars), f"{bars.timeframe} bars of {bars.provenance.label}")
    last_close = (bars.frame.index[-1] + service.timeframe.step).to_pydatetime()
    if kept is not None:
        _require_continuation(path, kept, last_close, bars.frame, read_kept_bars(store, file_id))
    chunks = encode_bars(bars.frame, service.timeframe)
    row = BarFile(
        id=file_id,
        path=path,
        digest=bars.content_hash,
        bars=len(bars.frame),
        last_close=last_close,
        chunks=list(chunks),
        found=_note_found(bars.quality),
        size=state.size,
        modified_ns=state.modified_ns,
        read_at=datetime.now(UTC),
    )
    put_bars(store, row, chunks)
    return kept is None or kept.digest != row.digest


def _require_continuation(
    path: str, kept: BarFile, last_close: datetime, new: pd.DataFrame, old: pd.DataFrame
) -> None:
    """Check that a file goes on from the bars that are kept of it.

    Bars of one market may be adjusted as a whole: their ratio to the kept ones then stays the same
    from bar to bar. That of another market moves with each bar.
    """
    remedy = "put the old file back, or pass bars_file= with another name for other bars"
    if last_close < kept.last_close:
        raise BarsError(
            f"{path} ends at {last_close}, but its bars are kept until {kept.last_close}; {remedy}"
        )
    common = new.index.intersection(old.index)
    if len(common) < min(len(old), LEAST_COMMON) and new.index[0] <= old.index[-1]:
        raise BarsError(
            f"{path} has only {len(common):,} of the {len(old):,} bars kept of it; {remedy}"
        )
    ratio = np.log(new.loc[common, "close"].to_numpy() / old.loc[common, "close"].to_numpy())
    moved = np.abs(np.diff(ratio)) > SAME_RATIO
    if len(moved) and moved.mean() > MAX_MOVED_SHARE:
        raise BarsError(
            f"{path} has other bars than those that are kept of it: {moved.sum():,} of "
            f"{len(moved):,} closes moved otherwise, the first at {common[1:][moved][0]}; {remedy}"
        )


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
