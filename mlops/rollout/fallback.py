"""A champion's health, always: one that fails gives way to the previous one, or the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlops.rollout.analysis import Counts, Word, judge_alone
from mlops.store.replicas import Replica
from mlops.store.routes import Route
from mlops.store.schema import Status

MAX_FAULT_RATE = 0.05
"""A champion is unfit when more than this share of its trials is shown to fail."""

WINDOW_S = 600.0
"""Trials of this many seconds are judged together."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """The route without the champion, and what becomes of the versions."""

    route: Route
    reason: str
    statuses: Mapping[str, Status]


def champion_failing(route: Route, replicas: Sequence[Replica], seen: Counts) -> str | None:
    """Why the champion is not fit to serve; None where nothing speaks against it."""
    lost = [one for one in replicas if one.lost(route.champion)]
    if replicas and 2 * len(lost) >= len(replicas):
        error = lost[0].models[route.champion].error
        return f"{len(lost)} of {len(replicas)} replicas cannot load {route.champion}: {error}"
    verdict = judge_alone(seen, max_fault_rate=MAX_FAULT_RATE)
    if verdict.word is Word.WORSE:
        return f"{route.champion} fails: {verdict}"
    return None


def decide_fallback(
    route: Route,
    replicas: Sequence[Replica],
    seen: Counts,
    *,
    previous_status: Status | None = None,
) -> Fallback | None:
    """Where a failing champion's requests go instead; None while it is healthy.

    The previous champion takes over where some replica holds it and it has not failed itself,
    else the baseline. The failed one is not kept as a way back.
    """
    why = champion_failing(route, replicas, seen)
    if why is None or route.champion == route.baseline:
        return None
    previous = route.previous_champion
    held = previous is not None and any(one.holds(previous) for one in replicas)
    held = held and previous_status is not Status.FAILED
    successor = previous if held and previous is not None else route.baseline
    return Fallback(
        replace(route, champion=successor, previous_champion=None),
        f"{why}; {successor} serves instead",
        {successor: Status.DEPLOYED, route.champion: Status.FAILED},
    )
