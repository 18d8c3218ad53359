"""One process that has imported everything and forks the others: a replica in 20 ms, not 5 s.

Run as a module it reads one JSON line a request and answers with one. It ends, and everything
it forked with it, when its standard input does.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import cast

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Process:
    """A forked process, as the test holds it."""

    zygote: Zygote
    pid: int
    pidfd: int
    who: str
    log: Path

    def kill(self) -> None:
        """SIGKILL, and wait for it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            signal.pidfd_send_signal(self.pidfd, number)

    @property
    def alive(self) -> bool:
        return not self._ended(0.0)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its status: negative is the signal that ended it.

        Raises:
            TimeoutError: with the end of its log.
        """
        if not self._ended(timeout_s):
            raise TimeoutError(f"{self.who} has not ended within {timeout_s:g} s:\n{self.tail()}")
        return self.zygote.status(self.pid)

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def _ended(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


class Zygote:
    """The test's end of the line; thread-safe."""

    def __init__(self, log: Path) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[int, int] = {}
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
            )

    def spawn(
        self, role: str, given: Mapping[str, Any], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> Process:
        """Fork a process that plays the role."""
        asked = {"role": role, "given": given, "env": env, "cwd": str(cwd), "log": str(log)}
        pid = int(self._ask(asked))
        return Process(self, pid, os.pidfd_open(pid), str(given["who"]), log)

    def status(self, pid: int) -> int:
        """How a process that has ended did so."""
        if pid not in self._statuses:
            self._statuses[pid] = int(self._ask({"reap": pid}))
        return self._statuses[pid]

    def close(self) -> None:
        """End everything."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, asked: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(f"{json.dumps(asked)}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the zygote has ended; its log says why")
        return json.loads(answer)


def main() -> None:
    """Fork and reap as asked."""
    cast.import_everything()
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, "a fork copies one thread only"
    children: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "reap" in asked:
            status = os.waitpid(asked["reap"], 0)[1]
            children.discard(asked["reap"])
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = _fork(asked)
            children.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _fork(asked: Mapping[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _redirect(Path(asked["log"]))
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        cast.play(asked["role"], asked["given"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    """Away from the line that the zygote is spoken to on."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


if __name__ == "__main__":
    main()
