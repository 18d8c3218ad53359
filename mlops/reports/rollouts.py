"""A rollout on paper: the path it took, on what evidence, and who answered clients meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from mlops.reports import figures
from mlops.reports.page import Picture, RolloutSection, Step
from mlops.store import Phase, Rollout, RolloutEvent

BIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Answered:
    """One request of a client: when, by which variant, and whether it failed."""

    at: datetime
    variant: str
    failed: bool = False


def rollout_section(
    rollout: Rollout, events: Sequence[RolloutEvent], traffic: Sequence[Answered]
) -> RolloutSection:
    """One rollout as a section of a page."""
    failed = sum(one.failed for one in traffic)
    done = rollout.phase is Phase.DONE
    ending = "went live" if done else "was rolled back"
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
        steps=[_step(event, rollout) for event in events],
        pictures=[_picture(events, traffic)] if traffic else [],
    )


def _step(event: RolloutEvent, rollout: Rollout) -> Step:
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


def _picture(events: Sequence[RolloutEvent], traffic: Sequence[Answered]) -> Picture:
    began = min(one.at for one in traffic)
    at = np.array([(one.at - began).total_seconds() for one in traffic])
    edges = np.arange(0.0, at.max() + 2 * BIN_S, BIN_S)
    variants = sorted({one.variant for one in traffic if not one.failed})
    counted = {
        variant: _rate(at, edges, [one.variant == variant and not one.failed for one in traffic])
        for variant in variants
    }
    failed = _rate(at, edges, [one.failed for one in traffic])
    marks = [((event.at - began).total_seconds(), _mark(event)) for event in events]
    shown = [(second, text) for second, text in marks if 0 <= second <= edges[-1]]
    uri = figures.traffic(edges[:-1] + BIN_S / 2, counted, failed, shown)
    return Picture(
        "Who answered",
        uri,
        "Every answer clients got, by the version that gave it; dotted lines are the arrows.",
    )


def _rate(at: figures.Floats, edges: figures.Floats, chosen: Sequence[bool]) -> figures.Floats:
    counts, _ = np.histogram(at[np.asarray(chosen, dtype=bool)], edges)
    return np.asarray(counts / BIN_S)


def _mark(event: RolloutEvent) -> str:
    if event.to_phase is Phase.STEP:
        return f"{event.detail.get('weight_bp', 0) / 100:.0f} %"
    return str(event.to_phase)
