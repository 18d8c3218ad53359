"""How a replica follows a route: which versions it asks, loads and may drop. Pure functions.

The process that routes a request holds the models itself, so a request never goes to a version
that is not ready in that process, whatever the route says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from mlops.rollout.plan import EVERYTHING_BP
from mlops.store import Route

READY, FAILED = "ready", "failed"


def deal(salt: str, key: str) -> int:
    """The place of a key among 10,000, by a keyed hash; the same in every replica.

    Args:
        salt: The rollout's salt, so that each rollout gives the challenger other keys.
        key: The key of the request.
    """
    digest = hashlib.blake2b(key.encode(), key=salt.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") % EVERYTHING_BP


def takes_part(route: Route, replica_id: str) -> bool:
    """Whether this replica takes part in the rollout, so that it loads the challenger."""
    if route.challenger is None:
        return False
    return route.only_replicas is None or replica_id in route.only_replicas


def goes_to_challenger(route: Route, replica_id: str, drawn: int, *, valid: bool) -> bool:
    """Whether the challenger answers a key; a larger weight only adds keys.

    Args:
        route: The service's route.
        replica_id: This replica.
        drawn: The key's place, as `deal` returned it.
        valid: False if no controller has renewed the share in time; then no key is the
            challenger's.
    """
    return valid and takes_part(route, replica_id) and drawn < route.weight_bp


def ask_order(route: Route, ready: Collection[str], *, challenger_first: bool) -> tuple[str, ...]:
    """The versions to ask, in this order, until one answers: only those in ``ready``."""
    order = [route.champion, route.previous_champion, route.baseline]
    if challenger_first:
        order.insert(0, route.challenger)
    return tuple(dict.fromkeys(name for name in order if name is not None and name in ready))


def wanted(route: Route, replica_id: str) -> tuple[str, ...]:
    """The versions this replica should hold, in the order of loading.

    The challenger comes last. It is never ready in a replica whose champion is not, so every
    request is still answered when the challenger loses its traffic.
    """
    order = [route.baseline, route.champion, route.previous_champion]
    if takes_part(route, replica_id):
        order.append(route.challenger)
    return tuple(dict.fromkeys(name for name in order if name is not None))


def next_to_load(route: Route, replica_id: str, states: Mapping[str, str]) -> str | None:
    """The version to load now: the first wanted version that this replica has not; or None."""
    for model_id in wanted(route, replica_id):
        if model_id == route.challenger and states.get(route.champion) != READY:
            return None
        if model_id not in states:
            return model_id
    return None


def may_drop(route: Route, replica_id: str, model_id: str, states: Mapping[str, str]) -> bool:
    """Whether a version may be dropped: the route does not want it and the champion is ready."""
    if model_id in wanted(route, replica_id):
        return False
    return states.get(model_id) == FAILED or states.get(route.champion) == READY
