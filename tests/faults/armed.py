"""Makes a process of ours countable and breakable from outside, before its main runs.

Nothing in the product knows of it. Every commit is a point, named by the function whose
transaction it is; so is every stage of a load, every write of the spool and every socket that
is closed. A point is visited before and after; a commit also as its transaction begins. Each
visit is one line in a file that outlives the process, and at one visit a fault may strike.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.faults.clock import jump_clock

STAGES = ("fetching", "verifying", "opening", "golden", "warming", "ready")
BEGIN, BEFORE, AFTER = "begin", "before", "after"
DETAILS: dict[str, Callable[[dict[str, Any]], str]] = {
    "leases.acquire_lease": lambda names: names["name"].partition(":")[0],
    "controller._take_arrow": lambda names: _arrow(names["arrow"]),
}
"""What tells the commits of one function apart, from its local names."""

_PASSED_OVER = ("contextlib", "mlops.store.engine", __name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """At the ``nth`` visit of a point: ``kill``, ``stop`` (SIGSTOP), ``raise``, or ``sleep:S``.

    ``jump:S`` sets the clock of the machine forward by S seconds, or back; ``fails:ENOSPC`` raises
    that error of the system, at every visit while the gate is there.
    """

    point: str
    when: str
    action: str = "kill"
    nth: int = 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.action} {self.when} {self.point}" + (f" #{self.nth}" if self.nth > 1 else "")


class Injected(Exception):
    """What a fault of the kind ``raise`` raises."""


class Recorder:
    """Notes visits, and strikes; one of a process, which `arm` puts into its places.

    Where a ``gate`` is given, visits count from when that file is there; where there is a file
    ``drag``, each transaction takes so many seconds more.
    """

    def __init__(
        self,
        path: Path,
        who: str,
        faults: tuple[Fault, ...],
        *,
        gate: Path | None = None,
        drag: Path | None = None,
    ) -> None:
        self.who = who
        self.gate = gate
        self.drag = drag
        self.faults = {(fault.point, fault.when): fault for fault in faults}
        self.visits: Counter[tuple[str, str]] = Counter()
        self.stages: dict[str, list[str]] = {}
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def visit(self, point: str, when: str) -> None:
        """Note it; a fault that is due here strikes."""
        self.note("visit", f"{when} {point}")
        fault = self.faults.get((point, when))
        if fault is None or (self.gate is not None and not self.gate.exists()):
            return
        self.visits[point, when] += 1
        if fault.nth == self.visits[point, when] or fault.action.startswith("fails:"):
            self.note("struck", str(fault))
            _strike(fault)

    def slow_down(self) -> None:
        """Take as long as the disk does."""
        if self.drag is not None and self.drag.exists():
            time.sleep(float(self.drag.read_text() or 0))

    def note(self, kind: str, text: str) -> None:
        """One line: when, who, what kind of thing, and what."""
        line = f"{time.monotonic():.6f}\t{self.who}\t{kind}\t{text}\n"
        os.write(self.file, line.encode())

    @contextmanager
    def around(self, point: str) -> Iterator[None]:
        """Visit a point before and, where nothing was raised, after."""
        self.visit(point, BEFORE)
        yield
        self.visit(point, AFTER)


def arm(recorder: Recorder) -> None:
    """Put the recorder into every place of this process; its modules are all imported."""
    _arm_commits(recorder)
    _arm_loads(recorder)
    _arm_spool(recorder)
    _arm_sockets(recorder)
    _assert_readiness(recorder)


def _strike(fault: Fault) -> None:
    kind, _, argument = fault.action.partition(":")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        # Sent to this thread: one to the process may reach another thread first, and this one
        # would go on into its transaction before it stops.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    elif kind == "sleep":
        time.sleep(float(argument))
    elif kind == "jump":
        jump_clock(float(argument))
    elif kind == "fails":
        number = getattr(errno, argument)
        raise OSError(number, os.strerror(number), fault.point)
    else:
        raise Injected(str(fault))


def _arm_commits(recorder: Recorder) -> None:
    from mlops.store.engine import Store

    real, reading = Store.write, Store.read

    @contextmanager
    def read(self: Store) -> Iterator[Any]:
        recorder.slow_down()
        with reading(self) as connection:
            yield connection

    @contextmanager
    def write(self: Store) -> Iterator[Any]:
        point = commit_point(sys._getframe(1))
        recorder.visit(point, BEGIN)
        with real(self) as connection:
            yield connection
            recorder.slow_down()
            # Everything is written here, and nothing is committed yet.
            recorder.visit(point, BEFORE)
        recorder.visit(point, AFTER)

    Store.read, Store.write = read, write  # type: ignore[method-assign]


def commit_point(frame: FrameType | None) -> str:
    """The function that opened the transaction, as ``module.function[detail]``."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PASSED_OVER):
        frame = frame.f_back
    assert frame is not None
    module = frame.f_globals["__name__"].rpartition(".")[2]
    name = f"{module}.{frame.f_code.co_name}"
    detail = DETAILS.get(name)
    return name if detail is None else f"{name}[{detail(frame.f_locals)}]"


def _arrow(arrow: Any) -> str:
    return f"{arrow.to}{arrow.step}" if arrow.to == "step" else str(arrow.to)


def _arm_loads(recorder: Recorder) -> None:
    """The stages of a load follow one another, so each one's end is the next one's beginning."""
    from mlops.serving.engine import model_pool

    last: list[str] = []

    def stage(name: str, model_id: str) -> None:
        if last:
            recorder.visit(last.pop(), AFTER)
        last.append(f"load[{name}]")
        recorder.stages.setdefault(model_id, []).append(name)
        recorder.visit(last[0], BEFORE)

    real = model_pool.ModelPool.load

    def load(self: model_pool.ModelPool, version: Any) -> None:
        last.clear()
        recorder.stages.pop(version.model_id, None)
        real(self, version)
        if last:
            recorder.visit(last.pop(), AFTER)

    model_pool.stage = stage
    model_pool.ModelPool.load = load  # type: ignore[method-assign]


def _arm_spool(recorder: Recorder) -> None:
    from mlops.serving.forecast_spool import ForecastSpool

    real = ForecastSpool.put

    def put(self: ForecastSpool, rows: Any) -> bool:
        with recorder.around("spool.put"):
            return real(self, rows)

    ForecastSpool.put = put  # type: ignore[method-assign]


def _arm_sockets(recorder: Recorder) -> None:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    closing, ending = uvicorn.Server.shutdown, HttpToolsProtocol.shutdown

    async def shutdown(self: uvicorn.Server, sockets: Any = None) -> None:
        with recorder.around("socket[listening]"):
            await closing(self, sockets)

    def end(self: HttpToolsProtocol) -> None:
        with recorder.around("socket[connection]"):
            ending(self)

    uvicorn.Server.shutdown = shutdown  # type: ignore[method-assign]
    HttpToolsProtocol.shutdown = end  # type: ignore[method-assign]


def _assert_readiness(recorder: Recorder) -> None:
    """No forecast is asked of a model that has not passed every stage in this process."""
    from mlops.serving.engine.batcher import Batcher

    asked, shown = Batcher.forecast, Batcher.shadow

    def check(model: Any) -> None:
        passed = recorder.stages.get(model.model_id, [])
        if passed != list(STAGES):
            recorder.note("violation", f"{model.model_id} was asked after {passed}")

    async def forecast(self: Any, model: Any, window: Any, **options: Any) -> Any:
        check(model)
        return await asked(self, model, window, **options)

    async def shadow(self: Any, model: Any, window: Any) -> Any:
        check(model)
        return await shown(self, model, window)

    Batcher.forecast, Batcher.shadow = forecast, shadow  # type: ignore[method-assign]
