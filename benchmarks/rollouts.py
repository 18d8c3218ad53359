"""CPU of one tick of the controller with two hundred open rollouts, each of another service.

Three replicas hold every version; between two ticks each of them has counted more, so that every
rollout and every champion is judged anew. The same of A/B tests, whose challengers have their share
all the time: for ten minutes a replica acknowledges each generation and the controller ticks.
"""

from __future__ import annotations

import time
from dataclasses import replace

from benchmarks.figure import Figure
from benchmarks.outcomes import open_stores
from mlops.rollout.controller import EXPOSURE_S, TICK_S, Controller
from mlops.rollout.plan import Strategy
from mlops.store import Rollout, Store, list_replicas, list_routes
from mlops.store.replicas import acknowledge
from mlops.store.request_counts import Source, champion_scope, record_tallies
from tests.mlops.rollout.rows import begin_rollouts, tally

ROLLOUTS, QUICK_ROLLOUTS = 200, 20
TESTED_S = {"sqlite": 600.0, "postgres": 60.0}
QUICK_TESTED_S = 5.0
REPLICAS = ("r0", "r1", "r2")
TICKS = 4
LIMIT_S, ARROW_S = 0.5, 0.005


def cpu_of_ticks(store: Store, rollouts: int) -> tuple[float, float]:
    """CPU seconds of one arrow, and the most of a tick in which no rollout moves."""
    begun = begin_rollouts(store, rollouts, REPLICAS)
    controller = Controller(store, "benchmark")
    spent, arrows = _cpu_of_tick(controller)
    while _cpu_of_tick(controller)[1]:
        pass  # a slow machine leaves some for a later tick
    quiet = []
    for trials in range(1, TICKS + 1):
        _count_more(store, begun, trials)
        seconds, moved = _cpu_of_tick(controller)
        if moved:
            raise RuntimeError(f"{moved} rollouts moved with too little evidence")
        quiet.append(seconds)
    return spent / arrows, max(quiet)


def cpu_of_tests(store: Store, tests: int, seconds: float) -> tuple[float, float]:
    """The most CPU seconds of a tick with so many A/B tests, and the longest gap of a share.

    Args:
        store: An empty store.
        tests: Services, each with a running test.
        seconds: How long the controller ticks, by the clock of this host.
    """
    begun = begin_rollouts(store, tests, REPLICAS, Strategy.AB_TEST)
    controller = Controller(store, "benchmark")
    while _cpu_of_tick(controller)[1]:
        _follow(store)
    end, quiet, gap = time.monotonic() + seconds, 0.0, 0.0
    trials = 0
    while (now := time.monotonic()) < end:
        trials += 1
        _count_more(store, begun[:1], trials)
        gap = max(gap, _lapsed_s(store))
        spent, moved = _cpu_of_tick(controller)
        if moved:
            raise RuntimeError(f"{moved} tests moved without a verdict")
        quiet = max(quiet, spent)
        time.sleep(max(TICK_S - (time.monotonic() - now), 0.0))
    return quiet, gap


def _follow(store: Store) -> None:
    """Let every replica acknowledge the newest generation of each route."""
    newest = {route.service: route.generation for route in list_routes(store)}
    for replica in list_replicas(store):
        acknowledge(store, replace(replica, generations=newest), seconds=3600.0)


def _lapsed_s(store: Store) -> float:
    """Seconds since the first share ran out, by this host's clock; 0 while all count."""
    first = min(route.valid_until or 0.0 for route in list_routes(store))
    return max(time.time() - first, 0.0)


def _cpu_of_tick(controller: Controller) -> tuple[float, int]:
    began = time.process_time()
    moved = controller.tick()
    return time.process_time() - began, len(moved)


def _count_more(store: Store, rollouts: list[Rollout], trials: int) -> None:
    """One more trial of every version in every replica, too few for the gate."""
    for row in rollouts:
        scopes = ((row.id, Source.MIRROR), (champion_scope(row.from_version), Source.LIVE))
        rows = [
            tally(scope, source=source, replica_id=name, champion_trials=trials,
                  challenger_trials=trials)
            for name in REPLICAS
            for scope, source in scopes
        ]  # fmt: skip
        record_tallies(store, {row.service: rows})


def figures_on(store: Store, database: str, rollouts: int) -> list[Figure]:
    arrow, quiet = cpu_of_ticks(store, rollouts)
    return [
        Figure(
            f"one tick with {rollouts} open rollouts on {database}, all judged anew",
            f"{quiet:.3f} s of CPU",
            f"<= {LIMIT_S:g} s",
            quiet <= LIMIT_S,
            f"{1e3 * quiet / rollouts:.2f} ms a rollout",
        ),
        Figure(
            f"one arrow of a rollout on {database}, a transaction of its own",
            f"{1e3 * arrow:.1f} ms of CPU",
            f"<= {1e3 * ARROW_S:g} ms",
            arrow <= ARROW_S,
        ),
    ]


def figures_of_tests(store: Store, database: str, tests: int, seconds: float) -> list[Figure]:
    quiet, gap = cpu_of_tests(store, tests, seconds)
    return [
        Figure(
            f"one tick with {tests} running A/B tests on {database}",
            f"{quiet:.3f} s of CPU",
            f"<= {LIMIT_S:g} s",
            quiet <= LIMIT_S,
            f"{1e3 * quiet / tests:.2f} ms a test",
        ),
        Figure(
            f"time without their share of those tests in {seconds:g} s on {database}",
            f"{gap:.1f} s",
            "0 s",
            gap == 0.0,
            f"a share counts for {EXPOSURE_S:g} s after a tick",
        ),
    ]


def figures(*, quick: bool = False) -> list[Figure]:
    rollouts = QUICK_ROLLOUTS if quick else ROLLOUTS
    with open_stores() as stores:
        found = [
            figure
            for database, store in stores.items()
            for figure in figures_on(store, database, rollouts)
        ]
    with open_stores() as stores:
        return found + [
            figure
            for database, store in stores.items()
            for figure in figures_of_tests(
                store, database, rollouts, QUICK_TESTED_S if quick else TESTED_S[database]
            )
        ]
