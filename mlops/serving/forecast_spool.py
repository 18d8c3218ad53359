"""Forecasts on their way to the store: a write-ahead file, deleted once the store has its rows.

A forecast is appended and flushed to disk before it is published. Whatever happens to the store
or to this process, the row arrives: this process writes it once the store is back, or another
process on this host adopts the file of a dead one. The store keeps a row once, however often it
is written.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlops.store import ForecastRow, Store
from mlops.store.forecasts import Role, record_forecasts

log = logging.getLogger(__name__)

BATCH_ROWS = 500
"""Rows per transaction of the store."""


class ForecastSpool:
    """The file of one process, and the files that dead processes left beside it.

    Args:
        owner: Names the file of this process; unique among all processes on this host.
        max_bytes: Bytes that may wait on disk, all files together.
    """

    def __init__(self, folder: Path, owner: str, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{owner}.jsonl"
        # Held as long as this process lives: a file whose lock is free belongs to a dead one.
        self._life_lock = FileLock(folder / f"{owner}.lock", timeout=0)
        self._life_lock.acquire()
        self._lock = threading.Lock()
        self._draining = threading.Lock()
        self.refused = 0
        self.replayed = 0
        self.torn = 0

    def put(self, rows: Sequence[ForecastRow]) -> bool:
        """Append rows to the file; False where there is no room, and they must not be published."""
        text = b"".join(_encode(row) for row in rows)
        with self._lock:
            if self.waiting_bytes() + len(text) > self.max_bytes:
                self.refused += len(rows)
                return False
            try:
                _append(self._path, text)
            except OSError as error:
                log.warning("the spool %s cannot be written: %s", self._path, error)
                self.refused += len(rows)
                return False
        return True

    def drain(self, store: Store) -> int:
        """Write all waiting rows to the store, those of dead processes too.

        `put` may go on meanwhile. Where another thread drains already, this one does nothing.

        Returns:
            The number of rows written.

        Raises:
            StoreError: when the store is away; the rows go on waiting.
        """
        if not self._draining.acquire(blocking=False):
            return 0
        try:
            written = self._drain_own(store)
            for path in sorted(self.folder.glob("*.jsonl")):
                if path != self._path:
                    written += self._adopt(path, store)
        finally:
            self._draining.release()
        return written

    def waiting_bytes(self) -> int:
        """Bytes on disk, of all processes, that the store does not have yet."""
        sizes = (path.stat().st_size for path in self.folder.glob("*.jsonl") if path.exists())
        return sum(sizes)

    def waiting(self) -> bool:
        """Whether rows of this process wait."""
        return self._path.exists() and self._path.stat().st_size > 0

    def close(self) -> None:
        """Release the lock of this process; the next one adopts what is left."""
        self._life_lock.release()

    def _drain_own(self, store: Store) -> int:
        with self._lock:
            text = self._path.read_bytes() if self._path.exists() else b""
        written = self._write_rows(text, store)
        if text:
            with self._lock:
                _cut_front(self._path, len(text))
        return written

    def _adopt(self, path: Path, store: Store) -> int:
        lock = FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            # Its process lives, and drains the file itself.
            return 0
        try:
            written = self._write_rows(path.read_bytes() if path.exists() else b"", store)
            path.unlink(missing_ok=True)
            log.info("stored %d forecast(s) that a dead replica left in %s", written, path.name)
            return written
        finally:
            lock.release()
            path.with_suffix(".lock").unlink(missing_ok=True)

    def _write_rows(self, text: bytes, store: Store) -> int:
        rows = []
        for line in text.splitlines():
            try:
                rows.append(_decode(line))
            except (ValueError, KeyError, TypeError):
                # The process was killed while it appended: the row was never published.
                self.torn += 1
        for first in range(0, len(rows), BATCH_ROWS):
            self.replayed += record_forecasts(store, rows[first : first + BATCH_ROWS])
        return len(rows)


def _append(path: Path, text: bytes) -> None:
    """Append all of the text and flush it to disk, or append none of it."""
    with path.open("ab") as file:
        size = file.tell()
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def _cut_front(path: Path, size: int) -> None:
    """Remove the first ``size`` bytes of a file, atomically: a kill leaves all or the rest."""
    rest = path.read_bytes()[size:]
    if not rest:
        path.unlink()
        return
    kept = path.with_suffix(".rest")
    kept.unlink(missing_ok=True)
    _append(kept, rest)
    kept.replace(path)


def _encode(row: ForecastRow) -> bytes:
    times = {"bar": row.bar.isoformat(), "made_at": row.made_at.isoformat()}
    return f"{json.dumps(asdict(row) | times)}\n".encode()


def _decode(line: bytes) -> ForecastRow:
    fields: dict[str, Any] = json.loads(line)
    times = {name: datetime.fromisoformat(fields[name]) for name in ("bar", "made_at")}
    return ForecastRow(**fields | times | {"role": Role(fields["role"])})
