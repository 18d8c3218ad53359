"""Forecasts on their way to the store: a write-ahead file, deleted once the store has its rows.

A forecast is appended and flushed to disk before it is published; the gaps of bars without one go
the same way. Whatever happens to the store
or to this process, the row arrives: this process writes it once the store is back, or another
process on this host adopts the file of a dead one. The store keeps a row once, however often it
is written. A line that the store refuses for its values is set aside in a file that ends with
``.bad``; it holds up no other line.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mlops.data.bars_folder import describe_os_error
from mlops.errors import RowRefused
from mlops.logs import RepeatedLines
from mlops.serving.spool_lines import SpoolRow, decode_row, encode_row
from mlops.store import ForecastRow, Store
from mlops.store.ab_tests import ForecastGap, record_gaps
from mlops.store.forecasts import record_forecasts

log = logging.getLogger(__name__)

BATCH_ROWS = 500
"""Rows per transaction of the store."""

BAD_BYTES = 1024**2
"""Lines that were set aside take no more of the disk, all files together."""

LOCK_AGE_S = 3600.0
"""A lock file without a spool file is deleted so long after its process began."""


class ForecastSpool:
    """The file of one process, and the files that dead processes left beside it.

    Args:
        owner: Names the file of this process; unique among all processes on this host.
        max_bytes: Bytes that may wait on disk, all files together.

    Attributes:
        trouble: Why the last rows were refused; empty once rows are taken again.
    """

    def __init__(self, folder: Path, owner: str, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        _remove_dead_locks(folder)
        self._path = folder / f"{owner}.jsonl"
        # Held as long as this process lives: a file whose lock is free belongs to a dead one.
        self._life_lock = FileLock(folder / f"{owner}.lock", timeout=0)
        self._life_lock.acquire()
        self._lock = threading.Lock()
        self._draining = threading.Lock()
        self.trouble = ""
        self.refused = 0
        self.replayed = 0
        self.torn = 0
        self.bad = 0
        self._lines = RepeatedLines(log)

    def put(self, rows: Sequence[SpoolRow]) -> bool:
        """Append rows to the file; False where there is no room, and they must not be published."""
        text = b"".join(encode_row(row) for row in rows)
        with self._lock:
            self.trouble = self._append_own(text)
        if self.trouble:
            self.refused += len(rows)
            self._lines.write("put", self.trouble)
        elif self._lines.end("put"):
            log.info("the spool %s takes forecasts again", self.folder)
        return not self.trouble

    def _append_own(self, text: bytes) -> str:
        """Append to the file of this process; why that was not possible, or an empty text."""
        waiting = self.waiting_bytes()
        if waiting + len(text) > self.max_bytes:
            return (
                f"the spool {self.folder} is full: {waiting:,} of {self.max_bytes:,} bytes wait "
                "for the store (REPLICA_SPOOL_MB sets the limit)"
            )
        try:
            _append(self._path, text)
        except OSError as error:
            return f"the spool {self._path} cannot be written: {describe_os_error(error)}"
        return ""

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
            self._look_for_room()
            written = self._drain_own(store)
            for path in sorted(self.folder.glob("*.jsonl")):
                if path != self._path:
                    written += self._adopt(path, store)
            self._lines.end("drain")
        except OSError as error:
            # The store has the rows. They are written to it again, which changes nothing.
            cause = describe_os_error(error)
            self._lines.write("drain", f"the spool {self.folder} cannot be emptied: {cause}")
            return 0
        finally:
            self._draining.release()
        return written

    def waiting_bytes(self) -> int:
        """Bytes on disk, of all processes, that the store does not have yet."""
        return sum(_size_of(path) for path in self.folder.glob("*.jsonl"))

    def waiting(self) -> bool:
        """Whether rows of this process wait."""
        return _size_of(self._path) > 0

    def close(self) -> None:
        """Release the lock of this process; the next one adopts what is left."""
        if not self._path.exists():
            Path(self._life_lock.lock_file).unlink(missing_ok=True)
        self._life_lock.release()

    def _look_for_room(self) -> None:
        """Forget why rows were refused once there is room: none may come for long."""
        if self.trouble:
            with self._lock:
                self.trouble = self._append_own(b"\n")

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
        """Write the rows of a file to the store; lines that are no rows are set aside."""
        rows: list[tuple[bytes, SpoolRow]] = []
        for line in text.splitlines(keepends=True):
            if not line.strip():
                continue
            try:
                rows.append((line, decode_row(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if line.endswith(b"\n"):
                    self._set_aside(line, error)
                else:
                    # The process was killed while it appended: the row was never published.
                    self.torn += 1
        for first in range(0, len(rows), BATCH_ROWS):
            self._write_batch(rows[first : first + BATCH_ROWS], store)
        return len(rows)

    def _write_batch(self, rows: Sequence[tuple[bytes, SpoolRow]], store: Store) -> None:
        """Write rows in one transaction or, where the store refuses one of them, in halves."""
        try:
            # Forecasts first: where a bar has one, no gap is kept.
            forecasts = [row for _, row in rows if isinstance(row, ForecastRow)]
            self.replayed += record_forecasts(store, forecasts)
            record_gaps(store, [row for _, row in rows if isinstance(row, ForecastGap)])
        except (RowRefused, ValueError, OverflowError) as error:
            if len(rows) == 1:
                self._set_aside(rows[0][0], error)
                return
            middle = len(rows) // 2
            self._write_batch(rows[:middle], store)
            self._write_batch(rows[middle:], store)

    def _set_aside(self, line: bytes, error: Exception) -> None:
        """Keep a line that no store takes beside the spool, where there is room for it."""
        self.bad += 1
        aside = self._path.with_suffix(".bad")
        sizes = [path.stat().st_size for path in self.folder.glob("*.bad")]
        kept = sum(sizes) + len(line) <= BAD_BYTES
        if kept:
            # On a full disk the line is lost rather than every other one held up.
            with suppress(OSError):
                _append(aside, line)
        fate = f"it is kept in {aside}" if kept else f"{self.folder} has no room to keep it"
        log.error("a line of the spool cannot be stored, %s: %s", fate, error)


def _size_of(path: Path) -> int:
    """The size of a file; 0 where another thread or process has just removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove_dead_locks(folder: Path) -> None:
    """Delete the lock files of dead processes that left no forecasts."""
    for path in folder.glob("*.lock"):
        with suppress(OSError, Timeout):
            old = time.time() - path.stat().st_mtime > LOCK_AGE_S
            if old and not path.with_suffix(".jsonl").exists():
                with FileLock(path, timeout=0):
                    path.unlink()


def _append(path: Path, text: bytes) -> None:
    """Append all of the text and flush it to disk, or append none of it."""
    is_new = not path.exists()
    # Without a buffer: what a failed write left in it would be written when the file is closed.
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise
    if is_new:
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk: a new file is lost without its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    _flush_folder(path.parent)
