"""Server processes that one of our programs starts, waits for and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

POLL_S = 0.1
STOP_S = 20.0


@dataclass(slots=True)
class ServerProcess:
    """One process: its command, the URL that answers when it is up, and its stop signal."""

    name: str
    command: Sequence[str]
    url: str | None = None
    stop_with: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log: Path | None = field(default=None, repr=False)

    def start(self, environment: Mapping[str, str], log: Path) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches this process only."""
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                list(self.command),
                env=dict(environment),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_up(self) -> bool:
        """Whether its URL answers; without a URL, whether it is alive."""
        return self.is_alive() if self.url is None else answers(self.url)

    def wait_until_up(self, *, within_s: float, stopping: threading.Event | None = None) -> None:
        """Wait until it is up, or until ``stopping`` is set.

        Raises:
            SystemExit: when it has ended, or is not up in time, naming its log.
        """
        stopping = stopping or threading.Event()
        deadline = time.monotonic() + within_s
        while not self.is_up():
            if not self.is_alive() or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start; see {self.log}")
            if stopping.wait(POLL_S):
                return

    def stop(self) -> None:
        """Send its stop signal, and kill its process group where it has not ended in `STOP_S`."""
        if self.process is not None and self.is_alive():
            stop_process(self.process, within_s=STOP_S, stop_with=self.stop_with)


def stop_process(
    process: subprocess.Popen[bytes],
    *,
    within_s: float,
    stop_with: signal.Signals = signal.SIGTERM,
) -> None:
    """Signal a process, and kill it where it has not ended within ``within_s`` seconds.

    A process that leads a process group is killed together with its group.
    """
    process.send_signal(stop_with)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether a GET of the URL is answered with status 200 within two seconds."""
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def free_port() -> int:
    """A port that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
