"""What a replica does with a route: whom it asks, what it loads, what it may let go. Pure.

The process that routes holds the models itself, so a request never goes to a version that is
not ready here, whatever the row says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from mlops.rollout.plan import EVERYTHING_BP
from mlops.store.routes import Route

READY, FAILED = "ready", "failed"


def deal(salt: str, key: str) -> int:
    """Where a key falls among 10,000; the same for every replica, and for every weight."""
    digest = hashlib.blake2b(key.encode(), key=salt.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") % EVERYTHING_BP


def takes_part(route: Route, replica_id: str) -> bool:
    """Whether this replica holds the challenger at all."""
    if route.challenger is None:
        return False
    return route.only_replicas is None or replica_id in route.only_replicas


def goes_to_challenger(route: Route, replica_id: str, drawn: int, *, valid: bool) -> bool:
    """Whether a key that fell on ``drawn`` is the challenger's.

    Raising a weight only adds keys. Without ``valid`` (nobody has renewed the share in time)
    none is.
    """
    return valid and takes_part(route, replica_id) and drawn < route.weight_bp


def ask_order(route: Route, ready: Collection[str], *, challenger_first: bool) -> tuple[str, ...]:
    """Whom to ask, in turn, until one answers: only what is ready in this process."""
    order = [route.champion, route.previous_champion, route.baseline]
    if challenger_first:
        order.insert(0, route.challenger)
    return tuple(dict.fromkeys(name for name in order if name is not None and name in ready))


def wanted(route: Route, replica_id: str) -> tuple[str, ...]:
    """What this replica should hold, in the order it should load it.

    The challenger comes last: it is never ready where its champion is not, so taking traffic
    from it again leaves nobody without an answer.
    """
    order = [route.baseline, route.champion, route.previous_champion]
    if takes_part(route, replica_id):
        order.append(route.challenger)
    return tuple(dict.fromkeys(name for name in order if name is not None))


def next_to_load(route: Route, replica_id: str, states: Mapping[str, str]) -> str | None:
    """The model to load now: the first wanted one that is not here, one at a time."""
    for model_id in wanted(route, replica_id):
        if model_id == route.challenger and states.get(route.champion) != READY:
            return None
        if model_id not in states:
            return model_id
    return None


def may_drop(route: Route, replica_id: str, model_id: str, states: Mapping[str, str]) -> bool:
    """Whether a model may be let go: nobody wants it here and the champion answers without it."""
    if model_id in wanted(route, replica_id):
        return False
    return states.get(model_id) == FAILED or states.get(route.champion) == READY
