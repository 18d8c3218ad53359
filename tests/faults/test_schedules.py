"""Three faults at random moments, whatever they are: every rollout ends, and in time."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest

from mlops.errors import RolloutError
from mlops.rollout.plan import RolloutPlan
from mlops.store import Phase, Rollout
from mlops.store.rollouts import list_rollouts
from tests.faults.outage import locked_file, locked_tables
from tests.faults.scenes import STRATEGIES, begin
from tests.faults.stage import Stage
from tests.faults.template import BETTER, GOOD
from tests.faults.world import World, quick_plan
from tests.zygote import Process

pytestmark = pytest.mark.faults

BUDGET = 3
VERSIONS = (GOOD, GOOD, BETTER, "raises_5_percent", "golden", "load_raises")
PLAN = {"load_s": 10.0, "gate_s": 5.0, "hold_s": 10.0, "dwell_s": 0.3, "bake_s": 0.5}
SLOWEST_S = 3.0
"""So long a process sleeps, a lock is held, and a dead replica stays away, at most."""

MORE = int(os.environ.get("FAULTS_SCHEDULES", "20"))


@pytest.mark.beside
@pytest.mark.parametrize(
    ("database", "seed"),
    [
        ("sqlite", 0),
        ("postgres", 2),
        ("sqlite", 1),
        *((database, seed) for seed in range(3, 3 + MORE) for database in ("sqlite", "postgres")),
    ],
)
def test_every_rollout_ends_within_its_deadlines_whatever_three_faults_befall_it(
    stage: Stage, database: str, seed: int
) -> None:
    with stage.world(f"schedule-{seed}", database) as world:
        begin(world, stands_by=True)
        played = Schedule(world, random.Random(seed))
        row = played.run()
        ended = world.ends(row, timeout_s=longest(quick_plan(row.strategy, **PLAN)))
        assert ended.phase in (Phase.DONE, Phase.FAILED)
        world.check()


def longest(plan: RolloutPlan) -> float:
    """The sum of every deadline on the longest path, and a lease for each fault."""
    phases = [Phase.PENDING, Phase.LOADING, Phase.GATE, Phase.PROMOTED, Phase.REVERTED]
    steps = [Phase.STEP] * (len(plan.weights_bp) + 1)
    waits = sum((plan.patience(phase) for phase in (*phases, *steps)), start=timedelta())
    return waits.total_seconds() + BUDGET * 2 * SLOWEST_S


@dataclass
class Schedule:
    """One rollout and the faults of one seed; the other replica lives while one is dead."""

    world: World
    random: random.Random

    def run(self) -> Rollout:
        controller = self.world.controller()
        strategy = self.random.choice(STRATEGIES)
        row = self.world.ask(self.random.choice(VERSIONS), strategy, **PLAN)
        for _ in range(BUDGET):
            self.sleep()
            kind = self.random.choice(sorted(self.kinds))
            self.kinds[kind](controller)
        return row

    @property
    def kinds(self) -> Mapping[str, Callable[[Process], None]]:
        return {
            "the controller dies": self.controller_dies,
            "the controller sleeps": self.controller_sleeps,
            "a replica dies": self.replica_dies,
            "a replica ends": self.replica_ends,
            "somebody aborts": self.somebody_aborts,
            "the store is locked": self.store_is_locked,
        }

    def controller_dies(self, controller: Process) -> None:
        controller.kill()

    def controller_sleeps(self, controller: Process) -> None:
        controller.signal(signal.SIGSTOP)
        self.sleep()
        controller.signal(signal.SIGCONT)

    def replica_dies(self, _: Process) -> None:
        victim = self.random.choice(self.world.serving())
        self.world.kill(victim)
        self.sleep()
        self.world.replica(victim.who)

    def replica_ends(self, _: Process) -> None:
        leaving = self.random.choice(self.world.serving())
        assert self.world.terminate(leaving) == 0
        self.world.replica(leaving.who)

    def somebody_aborts(self, _: Process) -> None:
        [row] = list_rollouts(self.world.store)
        with suppress(RolloutError):  # it has ended already
            self.world.abort(row)

    def store_is_locked(self, _: Process) -> None:
        lock = locked_file if self.world.url.startswith("sqlite") else locked_tables
        with lock(self.world):
            self.sleep()

    def sleep(self) -> None:
        """Let so much happen as this seed wants."""
        until = time.monotonic() + self.random.uniform(0.0, SLOWEST_S)
        self.world.until(lambda: time.monotonic() > until, "a while has gone by")
