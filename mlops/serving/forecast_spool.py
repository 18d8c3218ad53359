"""Forecasts on their way to the store: on disk before anybody sees them, gone once stored.

A forecast is appended and flushed to disk before it is published. Whatever becomes of the store
or of this process, the row arrives: this process writes it when the store is back, and the next
one on this host adopts what a dead one left. The store keeps a row once, however often it comes.
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

from mlops.store import ForecastRow, Role, Store, record_forecasts

log = logging.getLogger(__name__)

BATCH_ROWS = 500


class ForecastSpool:
    """One process's queue; ``max_bytes`` bounds what may wait on disk."""

    def __init__(self, folder: Path, owner: str, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{owner}.jsonl"
        self._own = FileLock(folder / f"{owner}.lock", timeout=0)
        self._own.acquire()
        self._lock = threading.Lock()
        self._draining = threading.Lock()
        self.refused = 0
        self.replayed = 0
        self.torn = 0

    def put(self, rows: Sequence[ForecastRow]) -> bool:
        """Keep rows on disk; False where there is no room, so that nobody publishes them."""
        text = "".join(f"{json.dumps(_plain(row))}\n" for row in rows).encode()
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
        """Write everything that waits to the store, dead processes' files too; returns how many.

        While the store takes its time, `put` goes on; who finds another thread at it leaves it
        to that one.

        Raises:
            StoreError: when the store is away; what waits goes on waiting.
        """
        if not self._draining.acquire(blocking=False):
            return 0
        try:
            written = self._own_written(store)
            for path in sorted(self.folder.glob("*.jsonl")):
                if path != self._path:
                    written += self._adopted(path, store)
        finally:
            self._draining.release()
        return written

    def waiting_bytes(self) -> int:
        """Bytes on disk that the store does not have yet."""
        sizes = (path.stat().st_size for path in self.folder.glob("*.jsonl") if path.exists())
        return sum(sizes)

    def waiting(self) -> bool:
        """Whether anything of this process waits."""
        return self._path.exists() and self._path.stat().st_size > 0

    def close(self) -> None:
        self._own.release()

    def _adopted(self, path: Path, store: Store) -> int:
        lock = FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            # Its process lives and writes it itself.
            return 0
        try:
            written = self._written(path.read_bytes() if path.exists() else b"", store)
            path.unlink(missing_ok=True)
            log.info("stored %d forecast(s) that a dead replica left in %s", written, path.name)
            return written
        finally:
            lock.release()
            path.with_suffix(".lock").unlink(missing_ok=True)

    def _own_written(self, store: Store) -> int:
        with self._lock:
            text = self._path.read_bytes() if self._path.exists() else b""
        written = self._written(text, store)
        if text:
            with self._lock:
                _forget(self._path, len(text))
        return written

    def _written(self, text: bytes, store: Store) -> int:
        rows = self._rows(text)
        for first in range(0, len(rows), BATCH_ROWS):
            self.replayed += record_forecasts(store, rows[first : first + BATCH_ROWS])
        return len(rows)

    def _rows(self, text: bytes) -> list[ForecastRow]:
        rows = []
        for line in text.splitlines():
            try:
                rows.append(_row(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                # A kill in the middle of an append: the row was never published.
                self.torn += 1
        return rows


def _append(path: Path, text: bytes) -> None:
    """All of the text, flushed to disk, or none of it."""
    with path.open("ab") as file:
        size = file.tell()
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def _forget(path: Path, size: int) -> None:
    """Leave what came after the first ``size`` bytes; a kill leaves all of them or the rest."""
    rest = path.read_bytes()[size:]
    if not rest:
        path.unlink()
        return
    kept = path.with_suffix(".rest")
    kept.unlink(missing_ok=True)
    _append(kept, rest)
    kept.replace(path)


def _plain(row: ForecastRow) -> dict[str, Any]:
    return asdict(row) | {"bar": row.bar.isoformat(), "made_at": row.made_at.isoformat()}


def _row(plain: dict[str, Any]) -> ForecastRow:
    times = {name: datetime.fromisoformat(plain[name]) for name in ("bar", "made_at")}
    return ForecastRow(**plain | times | {"role": Role(plain["role"])})
