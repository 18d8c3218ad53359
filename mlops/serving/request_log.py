"""What was asked and answered, one JSON line a request, in segments that are kept for some days.

Writing never holds a request up: lines go to a bounded list that a thread empties; what does
not fit is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

log = logging.getLogger(__name__)

MAX_WAITING = 50_000
SEGMENT_BYTES = 64 * 1024**2
FLUSH_S = 0.5
DAY_S = 86_400.0


class RequestLog:
    """Segments under one folder, named by owner and the second they were begun."""

    def __init__(self, folder: Path, owner: str, *, keep_days: float) -> None:
        self.folder = folder
        self.owner = owner
        self.keep_s = keep_days * DAY_S
        self.dropped = 0
        self._lines: list[bytes] = []
        self._stop = threading.Event()
        self._segment: Path | None = None
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Keep one line (JSON without a newline)."""
        if len(self._lines) >= MAX_WAITING:
            self.dropped += 1
        else:
            self._lines.append(line)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        swept = 0.0
        while not self._stop.wait(FLUSH_S):
            self._flush()
            if time.time() - swept > DAY_S / 24:
                swept = time.time()
                self._sweep(swept)
        self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            with self._current().open("ab") as file:
                file.write(b"\n".join(lines) + b"\n")
        except OSError as error:
            self.dropped += len(lines)
            log.warning("the request log cannot be written (%s); %d lines lost", error, len(lines))

    def _current(self) -> Path:
        full = (
            self._segment is None
            or not self._segment.exists()
            or self._segment.stat().st_size >= SEGMENT_BYTES
        )
        if self._segment is None or full:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            self._segment = self.folder / f"{self.owner}-{stamp}-{time.monotonic_ns()}.jsonl"
        return self._segment

    def _sweep(self, now: float) -> None:
        """Remove segments that were last written longer ago than they are kept."""
        for path in self.folder.glob("*.jsonl"):
            if now - path.stat().st_mtime > self.keep_s:
                path.unlink(missing_ok=True)
