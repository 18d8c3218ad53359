"""The section of a rollout says how it ended, and draws who answered meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mlops.reports.rollouts import Answered, rollout_section
from mlops.store import Phase, Rollout, RolloutEvent

NOW = datetime(2025, 1, 1, tzinfo=UTC)
DEALT = {"weight_bp": 2500, "trials": 601, "faults": 1, "e_value": 0.8, "upper_bound": 0.0057}


def event(seq: int, phase: Phase, **detail: Any) -> RolloutEvent:
    at = NOW + timedelta(seconds=seq)
    return RolloutEvent("rollout-1", seq, at, None, phase, 1, 7, 1, f"because {phase}", detail)


def rollout(phase: Phase) -> Rollout:
    return Rollout(
        id="rollout-1",
        service="gate_io.btc-usdt.1h.return.1",
        strategy="canary",
        from_version="lstm_a",
        to_version="lstm_b",
        plan={},
        phase=phase,
        step=0,
        since=NOW,
        deadline=NOW,
        reason="it stayed healthy",
        abort_requested=None,
        forced=False,
        requested_by="anna",
        requested_why="it passed its gates",
        requested_at=NOW,
    )


@pytest.mark.parametrize(
    ("before", "phase", "ending"),
    [
        (Phase.PROMOTED, Phase.DONE, "went live"),
        (Phase.ROLLBACK, Phase.DONE, "ended, and the champion stayed"),
        (Phase.ROLLBACK, Phase.FAILED, "was rolled back"),
    ],
)
def test_the_verdict_says_how_it_ended(before: Phase, phase: Phase, ending: str) -> None:
    events = [
        event(0, Phase.PENDING),
        event(2, Phase.STEP, **DEALT),
        event(3, before),
        event(4, phase),
    ]
    section = rollout_section(rollout(phase), events, [])
    assert section.verdict == f"It {ending}: it stayed healthy"
    assert section.passed is (phase is Phase.DONE)
    assert [step.seconds for step in section.steps] == [0.0, 2.0, 3.0, 4.0]
    assert section.steps[1].phase == "step 1"
    assert list(section.pictures) == []


def test_the_requests_of_clients_are_counted_and_drawn() -> None:
    traffic = [
        Answered(NOW + timedelta(seconds=second / 4), "champion" if second % 2 else "challenger")
        for second in range(16)
    ]
    traffic.append(Answered(NOW + timedelta(seconds=3), "nobody", failed=True))
    events = [event(0, Phase.PENDING), event(2, Phase.STEP, **DEALT), event(4, Phase.DONE)]
    section = rollout_section(rollout(Phase.DONE), events, traffic)
    assert section.facts["client requests meanwhile"] == "17, 1 failed"
    (picture,) = section.pictures
    assert picture.title == "Who answered"
