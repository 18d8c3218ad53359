"""Work in child processes that are forked from one warm server, with limits on memory and time.

A child reads what a stranger sent, or computes for longer than a request may hold the replica. It
has its own limits and a lower priority, so whatever the work does, the replica goes on answering.
A child answers in JSON: the parent runs no code for what a child sends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import orjson

from mlops import errors
from mlops.errors import ChildError, ChildKilled, ChildrenBusy, MlopsError

log = logging.getLogger(__name__)

PRELOAD = (
    "torch",
    "mlflow.pyfunc",
    "safetensors.numpy",
    "mlops.manager",
    "mlops.models.ensemble",
    "mlops.models.linear",
    "mlops.models.lstm",
    "mlops.models.transformer",
    "mlops.registry.claims",
)
"""What the server has imported when it forks: a child begins in milliseconds.

The server starts with the first child, which waits for these imports."""

MAX_ANSWER_BYTES = 256 * 1024**2
RETRY_AFTER_S = 5
_XCPU_GRACE_S = 5

ENDING = "this server ended before the work was done; send it again"


class Work(StrEnum):
    """A kind of work; one child at a time works on each."""

    UPLOAD = "upload"
    COMPUTATION = "computation"


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What one child may use.

    Args:
        memory_bytes: Of data. Address space has no limit: torch reserves far more than it uses.
        wall_s: Seconds until it is killed, whatever it waits for.
        nice: Added to its niceness.
    """

    memory_bytes: int = 4 * 1024**3
    cpu_s: int = 120
    wall_s: float = 600.0
    nice: int = 10


class Children:
    """Starts children, at most one for each kind of work.

    Args:
        preload: Modules that the warm server imports.
    """

    def __init__(
        self, limits: ChildLimits | None = None, *, preload: Sequence[str] = PRELOAD
    ) -> None:
        self.limits = limits or ChildLimits()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._free = {work: threading.Lock() for work in Work}
        self._followers: set[_Follower] = set()

    def reserve(self, work: Work) -> Reservation:
        """Take the place of a kind of work, before its input is read.

        Raises:
            ChildrenBusy: when a child works on that kind already.
        """
        free = self._free[work]
        if not free.acquire(blocking=False):
            raise ChildrenBusy(work, retry_after_s=RETRY_AFTER_S)
        return Reservation(self, free)

    def start(
        self, reservation: Reservation, function: Callable[..., Any], *given: Any
    ) -> Future[Any]:
        """Call a function in a child; the place is free again when the child has ended.

        Args:
            function: Of a module, so that the child can import it; it returns a JSON value.

        Returns:
            The value. It fails with the function's own `MlopsError`, with `ChildKilled` where a
            limit ended the child, and with `ChildError` where the function raised anything else.
        """
        follower = _Follower(self._context, self.limits, function, given)

        def end() -> None:
            self._followers.discard(follower)
            reservation.release()

        follower.on_end = end
        self._followers.add(follower)
        reservation.hand_over()
        follower.start()
        return follower.future

    def run(self, work: Work, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function in a child and wait for its value; raises what `start` says.

        Raises:
            ChildrenBusy: when a child works on that kind already.
        """
        with self.reserve(work) as reservation:
            future = self.start(reservation, function, *given)
        return future.result()

    def close(self) -> None:
        """Kill the children that work, and wait until they have ended."""
        for follower in list(self._followers):
            follower.stop()
            follower.join()


class Reservation:
    """A place for one child, free again at the end of the block or of the child's work."""

    def __init__(self, children: Children, place: threading.Lock) -> None:
        self._children = children
        self._place: threading.Lock | None = place
        self._handed_over = False

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._handed_over:
            self.release()

    def hand_over(self) -> None:
        """Let a child keep the place past the end of the block."""
        self._handed_over = True

    def release(self) -> None:
        """Free the place; a second call does nothing."""
        place, self._place = self._place, None
        if place is not None:
            place.release()


class _Follower(threading.Thread):
    """Starts one child, waits for its answer and sees to it that nothing of it is left."""

    def __init__(
        self,
        context: multiprocessing.context.ForkServerContext,
        limits: ChildLimits,
        function: Callable[..., Any],
        given: tuple[Any, ...],
    ) -> None:
        super().__init__(name=f"child {function.__name__}", daemon=True)
        self.future: Future[Any] = Future()
        self.on_end: Callable[[], None] | None = None
        """Called when nothing of the child is left, before its value is told."""
        self._limits = limits
        self._stopping = False
        self._receiver, self._sender = context.Pipe(duplex=False)
        self._process: ForkServerProcess = context.Process(
            target=run_in_child, args=(self._sender, limits, function, given), daemon=True
        )

    def run(self) -> None:
        # From here on nobody can cancel it: whoever waits only stops waiting.
        self.future.set_running_or_notify_cancel()
        try:
            answer = self._await_answer()
        except Exception as error:
            outcome: Any = error
        else:
            outcome = _read_answer(answer)
        if self.on_end is not None:
            self.on_end()
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def stop(self) -> None:
        """End the work, of a child that is only starting too."""
        self._stopping = True
        self._kill()

    def _kill(self) -> None:
        """End the child and every process that it started."""
        pid = self._process.pid
        if pid is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            self._process.kill()

    def _await_answer(self) -> bytes:
        until = time.monotonic() + self._limits.wall_s
        try:
            self._process.start()
            self._sender.close()
            if self._stopping:
                raise ChildKilled(ENDING)
            if self._receiver.poll(max(0.0, until - time.monotonic())):
                return self._receiver.recv_bytes(MAX_ANSWER_BYTES)
            raise ChildKilled(
                f"the work was ended after {self._limits.wall_s:g} s; send less, or try again when "
                "the machine is less busy"
            )
        except (EOFError, OSError) as error:
            self._process.join()
            raise ChildKilled(self._explain_end()) from error
        finally:
            self._kill()
            if self._process.pid is not None:
                self._process.join()
            self._receiver.close()

    def _explain_end(self) -> str:
        limits, code = self._limits, self._process.exitcode
        if self._stopping:
            return ENDING
        if code == -signal.SIGXCPU:
            return f"the work used more than its {limits.cpu_s} s of CPU time; send less"
        how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
        return (
            f"the process that did the work ended with {how} before it answered; it may use "
            f"{limits.memory_bytes / 1024**3:g} GiB of memory and {limits.cpu_s} s of CPU time"
        )


def run_in_child(
    sender: Connection, limits: ChildLimits, function: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    """The whole life of a child: limit itself, work, answer."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    apply_limits(limits)
    try:
        answer: dict[str, Any] = {"value": function(*given)}
    except MlopsError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    except MemoryError:
        gib = limits.memory_bytes / 1024**3
        text = f"the work asked for more than its {gib:g} GiB of memory; send less"
        answer = {"error": ChildKilled.__name__, "text": text}
    except Exception as error:
        log.exception("the work of a child failed")
        answer = {"error": ChildError.__name__, "text": f"{type(error).__name__}: {error}"[:500]}
    sender.send_bytes(orjson.dumps(answer))


def apply_limits(limits: ChildLimits) -> None:
    """Limit this process, and every process that it starts."""
    os.nice(limits.nice)
    for which, soft, room in (
        (resource.RLIMIT_DATA, limits.memory_bytes, 0),
        (resource.RLIMIT_CPU, limits.cpu_s, _XCPU_GRACE_S),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, hard = resource.getrlimit(which)
        if hard == resource.RLIM_INFINITY or hard > soft + room:
            hard = soft + room
        resource.setrlimit(which, (min(soft, hard), hard))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _read_answer(answer: bytes) -> Any:
    """The value of an answer, or the error that it tells."""
    try:
        document = orjson.loads(answer)
        if "value" in document:
            return document["value"]
        name, text = str(document["error"]), str(document["text"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        return ChildError(f"a child answered what is no answer: {error}")
    kind = getattr(errors, name, None)
    if not isinstance(kind, type) or not issubclass(kind, MlopsError):
        kind = ChildError
    # Some classes make their message themselves; this one is made already.
    rebuilt = kind.__new__(kind)
    MlopsError.__init__(rebuilt, text)
    return rebuilt
