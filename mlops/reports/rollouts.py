"""A section on a rollout: its path, the evidence, and the versions that answered meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from mlops.arrays import FloatArray
from mlops.reports import figures
from mlops.reports.page import Picture, RolloutSection, Step
from mlops.store import Phase, Rollout, RolloutEvent

BIN_S = 0.5
"""Seconds of a bin of the picture."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One request of a client: when, the variant that answered, and whether the request failed."""

    at: datetime
    variant: str
    failed: bool = False


def rollout_section(
    rollout: Rollout, events: Sequence[RolloutEvent], traffic: Sequence[Answered]
) -> RolloutSection:
    """Make the section of a rollout.

    Args:
        traffic: The requests of clients meanwhile; without any there is no picture.
    """
    failed = sum(request.failed for request in traffic)
    done = rollout.phase is Phase.DONE
    promoted = any(event.to_phase is Phase.PROMOTED for event in events)
    if not done:
        ending = "was rolled back"
    else:
        ending = "went live" if promoted else "ended, and the champion stayed"
    return RolloutSection(
        title=f"{rollout.to_version} by {rollout.strategy} — {rollout.service}",
        verdict=f"It {ending}: {rollout.reason}",
        passed=done,
        facts={
            "rollout": rollout.id,
            "from": rollout.from_version,
            "asked for by": f"{rollout.requested_by}: {rollout.requested_why}",
            "forced past its gates": "yes" if rollout.forced else "no",
            "client requests meanwhile": f"{len(traffic):,}, {failed} failed",
        },
        steps=[_make_step(event, rollout) for event in events],
        pictures=[_draw_picture(events, traffic)] if traffic else [],
    )


def _make_step(event: RolloutEvent, rollout: Rollout) -> Step:
    detail = event.detail
    return Step(
        seconds=(event.at - rollout.requested_at).total_seconds(),
        phase=f"{event.to_phase} {event.step}" if event.to_phase is Phase.STEP else event.to_phase,
        share=detail.get("weight_bp", 0) / 10_000,
        trials=detail.get("trials", 0),
        faults=detail.get("faults", 0),
        evidence=detail.get("e_value", 1.0),
        reason=event.reason,
    )


def _draw_picture(events: Sequence[RolloutEvent], traffic: Sequence[Answered]) -> Picture:
    began = min(request.at for request in traffic)
    at = np.array([(request.at - began).total_seconds() for request in traffic])
    edges = np.arange(0.0, at.max() + 2 * BIN_S, BIN_S)
    variants = sorted({request.variant for request in traffic if not request.failed})
    answered = {
        variant: _answers_per_second(
            at,
            edges,
            [request.variant == variant and not request.failed for request in traffic],
        )
        for variant in variants
    }
    failed = _answers_per_second(at, edges, [request.failed for request in traffic])
    marks = [
        (
            (event.at - began).total_seconds(),
            f"{event.detail.get('weight_bp', 0) / 100:.0f} %"
            if event.to_phase is Phase.STEP
            else str(event.to_phase),
        )
        for event in events
    ]
    shown = [(second, text) for second, text in marks if 0 <= second <= edges[-1]]
    uri = figures.traffic(edges[:-1] + BIN_S / 2, answered, failed, shown)
    return Picture(
        "Who answered",
        uri,
        "Every answer clients got, by the version that gave it; dotted lines are the arrows.",
    )


def _answers_per_second(at: FloatArray, edges: FloatArray, chosen: Sequence[bool]) -> FloatArray:
    counts, _ = np.histogram(at[np.asarray(chosen, dtype=bool)], edges)
    return np.asarray(counts / BIN_S)
