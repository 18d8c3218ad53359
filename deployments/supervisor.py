"""Keeps the processes of `make serve` running: starts them in order and restarts those that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deployments.processes import ServerProcess

LATE_S = 120.0
"""Seconds after which a process that is not up is told as late."""

RESTART_S, LONGEST_RESTART_S = 2.0, 60.0
"""Seconds before the first restart and the longest wait; doubled by each that does not last."""

LASTING_S = 60.0
"""Seconds after which a process has lasted."""

POLL_S = 0.5


@dataclass(slots=True)
class Part:
    """A process of `make serve` and how it fares.

    Args:
        page: The address that people open; empty where it has none.
        use: What people do with it, told when it is up.
        after: The part that must be up before this one starts.
        is_needed: Nothing else makes sense where this one cannot start.
        start_at: A second of `time.monotonic`.
    """

    process: ServerProcess
    page: str = ""
    use: str = ""
    after: Part | None = None
    is_needed: bool = False
    is_up: bool = False
    is_started: bool = False
    is_told_late: bool = False
    started_at: float = 0.0
    start_at: float = 0.0
    delay_s: float = RESTART_S

    def may_start(self) -> bool:
        """Whether its time has come, and the part before it is up.

        One that is needed is waited for until it is late: what comes after it may mend it, such as
        a training that makes the first version.
        """
        before = self.after
        is_due = before is None or before.is_up or (before.is_needed and before.is_told_late)
        return is_due and time.monotonic() >= self.start_at


class Supervisor:
    """Starts parts in order, restarts those that end, and stops all in reverse order.

    Args:
        logs: Folder of one log for each part.
        log_bytes: Size at which a log begins anew; one older part of each is kept.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        environment: Mapping[str, str],
        logs: Path,
        console: Console,
        *,
        log_bytes: int,
    ) -> None:
        self.parts = parts
        self.environment = environment
        self.logs = logs
        self.console = console
        self.log_bytes = log_bytes
        self.stopping = threading.Event()
        logs.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Keep all parts running until `stopping` is set, then stop them.

        Raises:
            SystemExit: when a part that is needed ends before it was up, naming its log.
        """
        try:
            while not self.stopping.wait(POLL_S):
                for part in self.parts:
                    self._look_after(part)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop all parts, the first one last."""
        for part in reversed(self.parts):
            part.process.stop()

    def _look_after(self, part: Part) -> None:
        part.process.limit_log(self.log_bytes)
        if not part.is_started:
            if part.may_start():
                part.process.start(self.environment, self.logs / f"{part.process.name}.log")
                part.is_started, part.started_at = True, time.monotonic()
        elif not part.process.is_alive():
            self._plan_restart(part)
        elif not part.is_up:
            self._look_whether_up(part)

    def _plan_restart(self, part: Part) -> None:
        """Have it started again later; a part that does not last waits twice as long."""
        name, log = part.process.name, part.process.log
        if part.is_needed and not part.is_up:
            raise SystemExit(f"{name} did not start; see {log}")
        # What is left of its session would hold its port.
        part.process.stop()
        lasted = time.monotonic() - part.started_at >= LASTING_S
        part.delay_s = RESTART_S if lasted else min(part.delay_s * 2, LONGEST_RESTART_S)
        part.start_at = time.monotonic() + part.delay_s
        part.is_started = part.is_told_late = False
        self.console.print(
            f"{name} ended; starting it again in {part.delay_s:.0f} s; see {log}",
            style="yellow",
            soft_wrap=True,
        )

    def _look_whether_up(self, part: Part) -> None:
        name = part.process.name
        if part.process.is_up():
            part.is_up = True
            self.console.print(
                f"{name:<15} {part.page or 'running'}{part.use}", highlight=False, soft_wrap=True
            )
        elif not part.is_told_late and time.monotonic() - part.started_at > LATE_S:
            part.is_told_late = True
            self.console.print(
                f"still waiting for {name} at {part.process.url}; see {part.process.log}",
                style="yellow",
                soft_wrap=True,
            )
