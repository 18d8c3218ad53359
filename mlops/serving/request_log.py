"""A log of answered requests, one JSON line each, in segments that are kept for some days.

Writing never delays a request: lines go to a bounded list that a thread writes out. Lines that do
not fit are dropped and counted.
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
    """Segments in one folder, named by owner and start (UTC).

    Args:
        owner: Unique among the processes that share the folder.
        keep_days: A segment is removed so long after it was last written.
    """

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
        """Append one line: JSON without a newline."""
        if len(self._lines) >= MAX_WAITING:
            self.dropped += 1
        else:
            self._lines.append(line)

    def close(self) -> None:
        """Write the waiting lines and end the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        swept_at = 0.0
        while not self._stop.wait(FLUSH_S):
            self._flush()
            if time.time() - swept_at > DAY_S / 24:
                swept_at = time.time()
                self._remove_old(swept_at)
        self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            segment = self._segment
            # A segment that was removed is as good as full.
            if not segment or not segment.exists() or segment.stat().st_size >= SEGMENT_BYTES:
                begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
                segment = self.folder / f"{self.owner}-{begun}-{time.monotonic_ns()}.jsonl"
            self._segment = segment
            with segment.open("ab") as file:
                file.write(b"\n".join(lines) + b"\n")
        except OSError as error:
            self.dropped += len(lines)
            log.warning("the request log cannot be written (%s); %d lines lost", error, len(lines))

    def _remove_old(self, now: float) -> None:
        for path in self.folder.glob("*.jsonl"):
            if now - path.stat().st_mtime > self.keep_s:
                path.unlink(missing_ok=True)
