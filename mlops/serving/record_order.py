"""Which version puts its forecast of a bar on record, and when; pure functions.

    the champion is ready here                 -> at once
    a live replica holds or loads the champion -> wait up to 5 % of the bar, at least 20 s
    its load failed in every live replica      -> wait 20 s, in which failed loads are tried again
    the wait is over                           -> the next version of the route that is ready here

No wait lasts longer than the bar is fresh. The wait begins when this replica first sees the bar,
because a replica that has just started may see it long after its close.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mlops.rollout.routing import READY, ask_order
from mlops.serving.engine.model_pool import State
from mlops.store import Route

LEAST_WAIT_S = 20.0
SHARE_OF_BAR = 0.05
LOADING = (State.FETCHING, State.LOADING, State.WARMING)


@dataclass(frozen=True, slots=True)
class RecordOrder:
    """The versions to ask for the forecast of record, or the reason to wait.

    Args:
        versions: In the order in which they are asked; empty while this replica waits.
        waits_for: Says which replicas hold or load the champion; empty where nothing is waited for.
    """

    versions: tuple[str, ...] = ()
    waits_for: str = ""


def longest_wait_s(bar_s: float, fresh_s: float) -> float:
    """Seconds for which a bar may wait for its champion's forecast.

    Args:
        bar_s: Length of the bar in seconds of the wall clock.
        fresh_s: Seconds until the bar is too old to forecast from.
    """
    return max(0.0, min(max(LEAST_WAIT_S, SHARE_OF_BAR * bar_s), fresh_s))


def order_for_record(
    route: Route,
    ready: Collection[str],
    champion_states: Mapping[str, str],
    *,
    waited_s: float,
    longest_s: float,
) -> RecordOrder:
    """Decide whose forecast of a bar goes on record now.

    Args:
        ready: The versions that are ready in this replica.
        champion_states: The state of the champion in each live replica, this one included.
        waited_s: Seconds since this replica first saw the bar.
        longest_s: What `longest_wait_s` returned for the bar.
    """
    order = ask_order(route, ready, challenger_first=False)
    holding = sorted(name for name, state in champion_states.items() if state == READY)
    loading = sorted(name for name, state in champion_states.items() if state in LOADING)
    wait_s = longest_s if holding or loading else min(LEAST_WAIT_S, longest_s)
    if route.champion in ready or waited_s >= wait_s:
        return RecordOrder(versions=order)
    places = [f"{name} holds it" for name in holding] + [f"{name} loads it" for name in loading]
    where = ", ".join(places) or "its load failed in every replica and is tried again"
    return RecordOrder(
        waits_for=f"the newest bar waits up to {wait_s:.0f} s for its champion "
        f"{route.champion}: {where}"
    )
