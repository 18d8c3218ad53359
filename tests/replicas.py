"""Replicas that are only rows: they acknowledge routes, hold models and count replayed bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlops.store import Store
from mlops.store.leases import renewing
from mlops.store.replicas import (
    HeldModel,
    LoadCause,
    Replica,
    ReplicaState,
    acknowledge,
    remove_replica,
)
from mlops.store.request_counts import Source, Tally, record_tallies
from mlops.store.routes import Route, list_routes

BEAT_S = 0.05
LEASE_S = 5.0
ENOUGH = 1000
"""Trials without a fault that show a version to be good."""


@contextmanager
def acknowledging(
    store: Store, *names: str, faults: int = 0, unloadable: frozenset[str] = frozenset()
) -> Iterator[None]:
    """Replicas that follow every route until the block ends.

    ``faults`` of a challenger's trials fail; models of ``unloadable`` cannot be loaded.
    """

    def all_beat() -> bool:
        for name in names or ("one",):
            beat(store, name, faults=faults, unloadable=unloadable)
        return True

    all_beat()
    try:
        with renewing(all_beat, every_s=BEAT_S):
            yield
    finally:
        for name in names or ("one",):
            remove_replica(store, name, f"{name}-1")


def beat(store: Store, name: str, *, faults: int, unloadable: frozenset[str]) -> None:
    """Acknowledge what is live now, and hand in what was counted."""
    routes = list_routes(store)
    said = Replica(
        id=name,
        incarnation=f"{name}-1",
        address=f"127.0.0.1:{name}",
        state=ReplicaState.READY,
        generations={route.service: route.generation for route in routes},
        models={one: held(one, unloadable) for route in routes for one in named(route)},
    )
    acknowledge(store, said, seconds=LEASE_S)
    challenged = {route.service: [tally(route, name, faults)] for route in routes if route.salt}
    record_tallies(store, challenged)


def named(route: Route) -> set[str]:
    """Every version a route speaks of."""
    spoken = (route.champion, route.previous_champion, route.baseline, route.challenger)
    return {one for one in spoken if one is not None}


def held(model_id: str, unloadable: frozenset[str]) -> HeldModel:
    if model_id in unloadable:
        error = "its weights are broken"
        return HeldModel(model_id, "failed", error=error, cause=LoadCause.VERSION)
    return HeldModel(model_id, "ready")


def tally(route: Route, name: str, faults: int) -> Tally:
    return Tally(
        scope=route.salt,
        step=0,
        source=Source.REPLAY,
        replica_id=name,
        incarnation=f"{name}-1",
        champion_trials=ENOUGH,
        challenger_trials=ENOUGH,
        challenger_faults=faults,
    )
