"""One process that has imported what is needed and forks the others: 20 ms each, not 5 s.

Run as a module with the name of a function that imports, it reads one JSON line a request and
answers with one. When its standard input ends, it ends, and every process that it forked.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Named = Callable[..., Any]
"""A function of a module, which the other process can import by its name."""


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

    def output(self, timeout_s: float = 60.0) -> str:
        """Wait for a process that must succeed, and return what it wrote."""
        status = self.wait(timeout_s)
        assert status == 0, f"{self.who} ended with {status}:\n{self.tail()}"
        return self.log.read_text()

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def _ended(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


class Zygote:
    """Starts processes for a test, from one that has run ``prepare``; thread-safe."""

    def __init__(self, log: Path, prepare: Named) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[int, int] = {}
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, _name_of(prepare)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
                env=os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)},
            )
        self._log = log

    def spawn(
        self,
        function: Named,
        *arguments: Any,
        log: Path,
        who: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Fork a process that calls the function.

        Args:
            function: A function of a module; it is imported in the child by its name.
            arguments: What JSON can hold.
            log: The file that its output is added to.
            who: The name of the process in messages; the function's name if empty.
            env: Variables added to the environment of the test.
            cwd: Its working directory; the folder of the log if None.
        """
        asked = {
            "function": _name_of(function),
            "arguments": arguments,
            "env": {"PYTHONPATH": str(ROOT), **os.environ, **ONE_THREAD, **(env or {})},
            "cwd": str(cwd or log.parent),
            "log": str(log),
        }
        pid = int(self._ask(asked))
        return Process(self, pid, os.pidfd_open(pid), who or function.__name__, log)

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
            raise RuntimeError(f"the zygote has ended:\n{self._log.read_text()[-3000:]}")
        return json.loads(answer)


def import_pipeline() -> None:
    """Import what trainings, registrations, rollouts and downloads need, without a thread."""
    from sqlalchemy.orm import configure_mappers

    from mlops.code_version import code_version
    from mlops.registry.tracking import _import_quietly

    _import_quietly()
    for name in PIPELINE:
        import_module(name)
    configure_mappers()
    # Asked once: the working tree may change while the processes run.
    code_version()


PIPELINE = (
    "alembic.config",
    "arch.bootstrap",
    "ccxt",
    "git",
    "mlflow.models.display_utils",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.tracing.export.utils",
    "mlflow.tracing.processor.otel",
    "mlflow.utils.search_logged_model_utils",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "pytest",
    "safetensors.numpy",
    "flows.deploy",
    "flows.train",
    "mlops.data.sources.exchange",
    "mlops.models.baselines",
    "mlops.models.linear",
    "mlops.registry.fetching",
    "mlops.search.tuning",
)
"""What a child imports late is imported by each child."""


def _name_of(function: Named) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _named(name: str) -> Named:
    module, _, function = name.partition(":")
    found: Named = getattr(import_module(module), function)
    return found


def main(prepare: str) -> None:
    """Fork and reap as asked."""
    inherited = set(os.environ)
    _named(prepare)()
    gc.collect()
    gc.freeze()
    threads = _thread_names()
    assert len(threads) == 1, f"a fork copies one thread only, and there are {threads}"
    children: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "reap" in asked:
            status = os.waitpid(asked["reap"], 0)[1]
            children.discard(asked["reap"])
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = _fork(asked, inherited)
            children.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _thread_names() -> list[str]:
    """Those of this process; jemalloc, which pyarrow brings, starts its own again in a child."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if name != "jemalloc_bg_thd"]


def _fork(asked: Mapping[str, Any], inherited: set[str]) -> int:
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
        for name in inherited - set(asked["env"]):
            os.environ.pop(name, None)
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        _named(asked["function"])(*asked["arguments"])
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
    main(sys.argv[1])
