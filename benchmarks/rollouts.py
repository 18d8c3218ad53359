"""CPU of one tick of the controller with two hundred open rollouts, each of another service.

Three replicas hold every version; between two ticks each of them has counted more, so that every
rollout and every champion is judged anew.
"""

from __future__ import annotations

import time

from benchmarks.figure import Figure
from benchmarks.outcomes import open_stores
from mlops.rollout.controller import Controller
from mlops.store import Rollout, Store
from mlops.store.request_counts import Source, champion_scope, record_tallies
from tests.mlops.rollout.rows import begin_rollouts, tally

ROLLOUTS, QUICK_ROLLOUTS = 200, 20
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


def figures(*, quick: bool = False) -> list[Figure]:
    rollouts = QUICK_ROLLOUTS if quick else ROLLOUTS
    with open_stores() as stores:
        return [
            figure
            for database, store in stores.items()
            for figure in figures_on(store, database, rollouts)
        ]
