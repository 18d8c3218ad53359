"""A scenario: a store, two replicas on real ports, a client at a steady rate, a controller."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlops.rollout.plan import RolloutPlan, plan_for
from mlops.rollout.request import request_rollout
from mlops.store import Phase, Rollout, Route, Store, Why, get_route, list_replicas, open_store
from mlops.store.replicas import Replica
from mlops.store.rollouts import get_rollout, list_rollouts, request_abort
from mlops.store.schema import lease
from mlops.store.sql import db_now
from tests.faults import cast
from tests.faults.armed import Fault
from tests.faults.laws import (
    Count,
    Death,
    broken_in_store,
    broken_readiness,
    judge_requests,
    violations,
)
from tests.faults.notes import Note, Visit, read_notes, visits_of
from tests.faults.results import Reader, Results
from tests.faults.template import KEY, MODULE, Template
from tests.zygote import Process, Zygote

RATE = 200
REPLICAS = ("replica-1", "replica-2")
QUICK: Mapping[str, Any] = {
    "load_s": 60.0,
    "gate_s": 60.0,
    "hold_s": 60.0,
    "dwell_s": 0.3,
    "bake_s": 0.5,
    "max_fault_rate": 0.03,
}
"""A rollout by this plan takes some 3 s; its deadlines are far, for faults take their time."""

LOOK_S = 0.05


@dataclass
class World:
    """One scenario; everything it started ends with it."""

    zygote: Zygote
    template: Template
    folder: Path
    url: str
    store: Store
    ports: Mapping[str, int]
    started: list[Process] = field(default_factory=list)
    ended: list[Death] = field(default_factory=list)
    killed: list[Death] = field(default_factory=list)
    lives: int = 0
    probing: Process | None = None
    budget_s: float = 20.0
    counted: Count = field(default_factory=lambda: Count(0, 0, ()))

    def __post_init__(self) -> None:
        self._reader = Reader(self.folder / "results.jsonl")

    @property
    def drag(self) -> Path:
        """While this file is there, every transaction takes so many seconds more."""
        return self.folder / "drag"

    @property
    def clock(self) -> Path:
        """Where this file is there, it says by how many seconds the machine's clock is ahead."""
        return self.folder / "clock"

    # Processes -------------------------------------------------------------------------------

    def replica(
        self,
        who: str,
        *faults: Fault,
        gated: bool = False,
        stands_by: bool = True,
        no_memory_for: Sequence[str] = (),
        descriptors: int | None = None,
        url: str | None = None,
        home: Path | None = None,
        wait: bool = True,
    ) -> Process:
        """Start a replica; ``stands_by``: as controller; ``gated``: unharmed until `let`.

        ``descriptors``: how many it may open; ``home``: the base path of another machine.
        """
        given = {
            "port": self.ports.get(who, 0),
            "stands_by": stands_by,
            "no_memory_for": list(no_memory_for),
            "descriptors": descriptors,
            "drain_s": cast.DRAIN_S,
            "gate": str(self._gate(who)) if gated else None,
        }
        self._gate(who).unlink(missing_ok=True)
        process = self._spawn("replica", who, faults, url=url, home=home, **given)
        if wait:
            self.until(lambda: self.ready(who), f"{who} is ready", process=process)
        return process

    def let(self, process: Process) -> None:
        """From now on the faults of a gated process strike."""
        self._gate(process.who).touch()

    def spare(self, process: Process) -> None:
        """From now on the faults of a gated process strike no more."""
        self._gate(process.who).unlink()

    def _gate(self, who: str) -> Path:
        return self.folder / f"{who}.gate"

    def replicas(self, **options: Any) -> list[Process]:
        """Both, side by side."""
        started = [self.replica(who, wait=False, **options) for who in REPLICAS]
        for process in started:
            self.until(lambda: self.ready(process.who), "both are ready", process=process)  # noqa: B023
        return started

    def controller(
        self, *faults: Fault, url: str | None = None, exposure_s: float | None = None
    ) -> Process:
        """Start a process that carries the role; ``exposure_s``: how long its word counts."""
        self.lives += 1
        who = f"controller-{self.lives}"
        return self._spawn("controller", who, faults, url=url, exposure_s=exposure_s)

    def further_controller(self, min_reader: str) -> Process:
        """Start a controller of a release that is one migration further.

        Args:
            min_reader: The oldest revision whose code may open the store from then on.
        """
        self.lives += 1
        who = f"controller-{self.lives}"
        return self._spawn(
            "further_controller", who, (), folder=str(self.folder), min_reader=min_reader
        )

    def asker(self, what: str, *faults: Fault, **given: Any) -> Process:
        """Start a process that asks for something and ends."""
        self.lives += 1
        return self._spawn("asker", f"asker-{self.lives}", faults, what=what, **given)

    def prober(self, *, rate: float = RATE, sessions: int = 0) -> Process:
        """Start the client."""
        self.probing = self._spawn(
            "prober",
            "prober",
            (),
            service=KEY,
            rate=rate,
            sessions=sessions,
            replicas=dict(self.ports),
            bodies=str(self.template.folder / "bodies.jsonl"),
            results=str(self.folder / "results.jsonl"),
        )
        return self.probing

    def crowd(self, connections: int) -> Process:
        """Start many clients on the first replica."""
        return self._spawn(
            "crowd",
            "crowd",
            (),
            service=KEY,
            connections=connections,
            ports=[self.ports[who] for who in REPLICAS],
            bodies=str(self.template.folder / "bodies.jsonl"),
            results=str(self.folder / "crowd.json"),
        )

    def trainer(self) -> Process:
        """Start a training on every core, again and again until it is ended."""
        bars = str(self.template.folder / "bars.parquet")
        return self._spawn("trainer", "trainer", (), bars=bars)

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        self.killed.append(Death(process.who, time.monotonic()))
        process.kill()

    def terminate(self, process: Process, timeout_s: float = 20.0) -> int:
        """SIGTERM, and its status."""
        self.ended.append(Death(process.who, time.monotonic()))
        process.signal(signal.SIGTERM)
        return process.wait(timeout_s)

    def _spawn(
        self,
        role: str,
        who: str,
        faults: Sequence[Fault],
        *,
        url: str | None = None,
        home: Path | None = None,
        **given: Any,
    ) -> Process:
        known = {
            "gate": None,
            "who": who,
            "url": url or self.url,
            "notes": str(self.folder / "notes"),
            "drag": str(self.drag),
            "clock": str(self.clock),
        }
        process = self.zygote.spawn(
            cast.play,
            role,
            known | given | {"faults": [fault.to_dict() for fault in faults]},
            who=who,
            env={
                "MLOPS_BASE_PATH": str(home or self.folder),
                "STORE_URL": url or self.url,
                # The template's bundles are read where they lie.
                "MLFLOW_TRACKING_URI": self.template.folder.as_uri(),
                "CUSTOM_MODEL_MODULES": MODULE,
                "SERVING_TIME_BUDGET_S": f"{self.budget_s:g}",
            },
            cwd=self.folder,
            log=self.folder / f"{who}.log",
        )
        self.started.append(process)
        return process

    # Rollouts --------------------------------------------------------------------------------

    def ask(self, model_id: str, strategy: str = "canary", **changes: Any) -> Rollout:
        """Ask for a rollout by a quick plan."""
        return request_rollout(self.store, model_id, quick_plan(strategy, **changes), _why())

    def abort(self, rollout: Rollout) -> None:
        request_abort(self.store, rollout.id, _why())

    def rollout(self, model_id: str, strategy: str = "canary", **changes: Any) -> Rollout:
        """Ask for one and wait for its end."""
        return self.ends(self.ask(model_id, strategy, **changes))

    def ends(self, rollout: Rollout, timeout_s: float = 120.0) -> Rollout:
        """The rollout once it has ended."""
        self.until(
            lambda: get_rollout(self.store, rollout.id).phase.final, f"{rollout.id} ends", timeout_s
        )
        return get_rollout(self.store, rollout.id)

    def reaches(self, rollout: Rollout, phase: Phase, step: int = 0) -> None:
        """Wait until a rollout is in a phase."""

        def there() -> bool:
            row = get_rollout(self.store, rollout.id)
            return row.phase is phase and row.step >= step

        self.until(there, f"{rollout.id} is in {phase} {step}")

    def holds_role(self, who: str) -> bool:
        """Whether a process is the controller."""
        with self.store.read() as connection:
            held = sa.select(lease.c.holder).where(
                lease.c.name == "controller", lease.c.until > db_now()
            )
            return connection.execute(held).scalar() == who

    def idle(self) -> bool:
        """Whether no rollout is open."""
        return all(row.phase.final for row in list_rollouts(self.store))

    def serving(self) -> list[Process]:
        """The replicas that live."""
        return [one for one in self.started if one.who in REPLICAS and one.alive]

    def route(self) -> Route:
        found = get_route(self.store, KEY)
        assert found is not None
        return found

    def said(self, who: str) -> Replica | None:
        """What a replica acknowledged, while its lease lasts."""
        return next((one for one in list_replicas(self.store) if one.id == who), None)

    def ready(self, who: str) -> bool:
        """Whether its port answers that it is ready."""
        return http_status(self.ports[who], "/readyz") == 200

    def in_rotation(self) -> bool:
        """Whether both replicas answer what the client sends."""
        seen = {one.first.replica for one in self.results().requests[-50:] if one.first.status}
        return seen >= set(REPLICAS)

    def until(
        self,
        there: Callable[[], bool],
        what: str,
        timeout_s: float = 60.0,
        *,
        process: Process | None = None,
    ) -> None:
        """Wait for something that other processes bring about.

        Raises:
            AssertionError: when it does not come, with what the processes wrote.
        """
        end = time.monotonic() + timeout_s
        while not there():
            gone = process is not None and not process.alive
            if time.monotonic() > end or gone:
                raise AssertionError(f"in vain until {what}\n{self.told()}")
            time.sleep(LOOK_S)

    # What came of it -------------------------------------------------------------------------

    def notes(self) -> list[Note]:
        return read_notes(self.folder / "notes")

    def visits(self, role: str) -> set[Visit]:
        return visits_of(self.notes(), role)

    def results(self) -> Results:
        """Everything that the client has seen by now."""
        return self._reader.read()

    def deaths(self) -> list[Death]:
        """Everybody who was killed, from outside or by a fault."""
        struck = [
            Death(note.who, note.at)
            for note in self.notes()
            if note.kind == "struck" and note.text.startswith("kill")
        ]
        return [*self.killed, *struck]

    def struck(self) -> list[str]:
        """The faults that struck, in order."""
        return [note.text for note in self.notes() if note.kind == "struck"]

    def stop_probing(self) -> Results:
        """End the client once what it has sent is answered."""
        assert self.probing is not None
        self.probing.signal(signal.SIGTERM)
        assert self.probing.wait() == 0, self.probing.tail()
        return self.results()

    def check(self) -> Count:
        """Hold everything against every law; what was sent, and how it went."""
        results = self.stop_probing()
        deaths = self.deaths()
        count = self.counted = judge_requests(results, deaths)
        broken = [
            *count.broken[:10],
            *broken_in_store(self.store),
            *broken_readiness(results, deaths, self.ended),
            *violations(self.notes()),
        ]
        assert not broken, f"{len(count.broken)} requests\n" + "\n".join(broken) + self.told()
        assert count.sent > 0
        return count

    def told(self) -> str:
        """The paths of the rollouts and the ends of the logs, for a failure."""
        rows = [
            f"{row.id} {row.strategy} {row.to_version} {row.phase}{row.step}: {row.reason}"
            for row in list_rollouts(self.store)
        ]
        logs = [f"--- {one.who}\n{one.tail()}" for one in {p.log: p for p in self.started}.values()]
        return "\n".join(["", *rows, *logs])


def quick_plan(strategy: str, **changes: Any) -> RolloutPlan:
    """A plan of a few seconds."""
    return plan_for(strategy, **{"canary_share": 0.25, **QUICK, **changes})


@contextmanager
def open_world(zygote: Zygote, template: Template, folder: Path, url: str) -> Iterator[World]:
    """A scenario with a store of its own at ``url``; nothing runs yet."""
    folder.mkdir(parents=True, exist_ok=True)
    template.copy_to(folder)
    template.copy_store_to(url)
    store = open_store(url)
    world = World(
        zygote, template, folder, url, store, dict(zip(REPLICAS, free_ports(2), strict=True))
    )
    try:
        yield world
    finally:
        for process in world.started:
            process.signal(signal.SIGKILL)
            process.wait()
            os.close(process.pidfd)
        store.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; held until all are found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def http_status(port: int, path: str) -> int | None:
    """The status of a GET; None where nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
            )
            line = connection.makefile("rb").readline()
    except OSError:
        return None
    return int(line.split()[1]) if line else None


def _why() -> Why:
    return Why(datetime.now(UTC), actor="ann", reason="because")
