"""A log of answered requests, one JSON line each, in segments that are kept for some days.

Writing never delays a request: lines go to a queue, and the thread of a `QueueListener` appends
them twice a second, all that wait as one record. Before it writes, it removes segments that are
too old and, while all segments together are too large, the oldest ones. Lines that do not fit into
the queue, or that the disk does not take, are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import suppress
from logging.handlers import BaseRotatingHandler, QueueListener
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

log = logging.getLogger(__name__)

MAX_WAITING = 50_000
SEGMENT_BYTES = 64 * 1024**2
SEGMENTS = 8
"""A segment has at most this part of the budget, so that little is lost with the oldest one."""

FLUSH_S = 0.5
SWEEP_S = 3600.0
"""Seconds between two looks for old segments while no request comes."""

DAY_S = 86_400.0


class RequestLog:
    """Segments in one folder, named by owner and start (UTC).

    Args:
        owner: Unique among the processes that share the folder.
        keep_days: A segment is removed so long after it was last written.
        max_bytes: Bytes that all segments of the folder may have together.
    """

    def __init__(self, folder: Path, owner: str, *, keep_days: float, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._refused = 0
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self.segments = Segments(folder, owner, keep_s=keep_days * DAY_S, max_bytes=max_bytes)
        self._listener = _Listener(self._queue, self.segments)
        self._listener.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost."""
        return self._refused + self.segments.lost

    def add(self, line: bytes) -> None:
        """Append one line: JSON without a newline."""
        if self._queue.qsize() >= MAX_WAITING:
            self._refused += 1
        else:
            self._queue.put(line)

    def close(self) -> None:
        """Write the waiting lines and end the thread."""
        self._listener.stop()
        self.segments.close()


class _Listener(QueueListener):
    """Hands on all lines that wait as one record, or as many as fill a segment."""

    def __init__(self, queue: SimpleQueue[bytes | None], segments: Segments) -> None:
        super().__init__(queue, segments)
        self._lines = queue
        self._segments = segments
        self._behind = False
        self._ending = threading.Event()

    def stop(self) -> None:
        if not self._ending.is_set():
            self._ending.set()
            super().stop()

    def dequeue(self, block: bool) -> Any:
        """The next record; None, which is the sentinel, once the log is closed."""
        first = self._wait_for_line()
        if first is None:
            return None
        if not self._behind:
            self._ending.wait(FLUSH_S)
        lines, size = [first], len(first)
        while size < self._segments.segment_bytes and not self._lines.empty():
            line = self._lines.get()
            if line is None:
                self.enqueue_sentinel()
                break
            lines.append(line)
            size += len(line)
        self._behind = not self._lines.empty()
        return logging.makeLogRecord({"msg": b"\n".join(lines).decode(), "lines": len(lines)})

    def _wait_for_line(self) -> bytes | None:
        while True:
            try:
                return self._lines.get(timeout=SWEEP_S)
            except Empty:
                self._segments.remove_old()


class Segments(BaseRotatingHandler):
    """Appends records of whole lines to the newest segment of one process.

    Args:
        keep_s: A segment is removed so long after it was last written.
        max_bytes: Bytes that all segments of the folder may have, those of other processes too.

    Attributes:
        lost: Lines that could not be written.
    """

    def __init__(self, folder: Path, owner: str, *, keep_s: float, max_bytes: int) -> None:
        self.folder = folder
        self.owner = owner
        self.keep_s = keep_s
        self.max_bytes = max_bytes
        self.segment_bytes = min(SEGMENT_BYTES, max_bytes // SEGMENTS)
        self.lost = 0
        self._written = 0
        super().__init__(self._name_segment(), "a", encoding="utf-8", delay=True)

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802
        self.remove_old(len(record.msg) + 1)
        gone = self.stream is not None and not os.path.exists(self.baseFilename)
        return gone or self._written >= self.segment_bytes

    def doRollover(self) -> None:  # noqa: N802
        self._close_stream()
        self.baseFilename = self._name_segment()
        self._written = 0

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self.stream is not None:
            self._written = self.stream.tell()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        lines: int = record.lines  # type: ignore[attr-defined]
        self.lost += lines
        reason = sys.exc_info()[1]
        log.warning("the request log cannot be written (%s); %d lines lost", reason, lines)
        self._close_stream()
        # No half line stays; the next record tries the segment again.
        with suppress(OSError):
            os.truncate(self.baseFilename, self._written)

    def remove_old(self, coming: int = 0) -> None:
        """Remove segments that are past their days, and the oldest ones beyond the budget.

        Args:
            coming: Bytes that are about to be written.
        """
        segments = self._list_segments()
        total = sum(size for _, size, _ in segments) + coming
        now = time.time()
        for modified, size, path in segments:
            if now - modified <= self.keep_s and total <= self.max_bytes:
                return
            # Another process may have removed it, or own it and let nobody remove it.
            with suppress(OSError):
                os.unlink(path)
                total -= size

    def _list_segments(self) -> list[tuple[float, int, str]]:
        """When each segment was last written, its bytes and its path; oldest first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                # What another process removes meanwhile is left out; a link counts as itself.
                with suppress(FileNotFoundError):
                    if entry.name.endswith(".jsonl"):
                        state = entry.stat(follow_symlinks=False)
                        found.append((state.st_mtime, state.st_size, entry.path))
        return sorted(found)

    def _name_segment(self) -> str:
        begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        return str(self.folder / f"{self.owner}-{begun}-{time.monotonic_ns()}.jsonl")

    def _close_stream(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            # Closing writes what is still buffered; where that fails, the loss is counted already.
            with suppress(OSError):
                stream.close()
