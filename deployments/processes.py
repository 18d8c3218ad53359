"""Server processes that one of our programs starts, waits for and stops."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from deployments.ports import find_listeners
from mlops.errors import SettingsError

POLL_S = 0.1
STOP_S = 20.0


@dataclass(slots=True)
class ServerProcess:
    """One process: its command, the URL that answers when it is up, and its stop signal.

    Args:
        environment: Variables that this process alone gets. Secrets belong here and not into the
            command, which every user of the machine can read.
    """

    name: str
    command: Sequence[str]
    url: str | None = None
    stop_with: signal.Signals = signal.SIGTERM
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log: Path | None = field(default=None, repr=False)

    def start(self, environment: Mapping[str, str], log: Path) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches this process only."""
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                list(self.command),
                env={**environment, **self.environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def limit_log(self, most_bytes: int) -> None:
        """Begin its log anew where it has outgrown the limit; the part before is kept beside it.

        The process appends to the file, so it goes on writing at the new beginning. Lines written
        between copying and cutting are lost.
        """
        if self.log is None or self.log.stat().st_size <= most_bytes:
            return
        # On a full disk there is no copy; the room is worth more than old lines.
        with suppress(OSError):
            shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
        os.truncate(self.log, 0)

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_up(self) -> bool:
        """Whether it is alive and, where it has a URL, whether it answers there itself."""
        if self.process is None or not self.is_alive():
            return False
        return self.url is None or (answers(self.url) and self._listens(self.process.pid))

    def _listens(self, session: int) -> bool:
        """Whether a process of its session listens on its port, and not another program."""
        port = urlsplit(self.url or "").port or 0
        return any(_find_session(pid) == session for pid in find_listeners(port))

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
        """Send its stop signal, and kill what is left of its process group.

        It has `STOP_S` to end by itself.
        """
        if self.process is None:
            return
        if self.is_alive():
            stop_process(self.process, within_s=STOP_S, stop_with=self.stop_with)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


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


def _find_session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Let no second program that holds the folder begin for as long as the block lasts.

    Raises:
        SettingsError: when another process holds the folder, naming it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "serve.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise SettingsError(
                f"{folder} is already served by process {file.read().strip() or 'unknown'}: stop "
                "it, or set MLOPS_BASE_PATH to another folder. Nothing was started"
            ) from error
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield
