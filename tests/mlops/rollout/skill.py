"""A champion that lost its skill, and what came of the training that was asked for."""

from __future__ import annotations

from datetime import timedelta

from mlops.store import Store
from mlops.store.alerts import Condition, Trouble, raise_alert
from mlops.store.leases import exclusive
from mlops.store.triggers import (
    Answer,
    Cause,
    TriggerLimits,
    TriggerReason,
    answer_triggers,
    claim_triggers,
    raise_trigger,
    training_lease,
)

from .rows import CHAMPION, NOW, SERVICE

OFTEN = TriggerLimits(cooldown=timedelta(0), per_day=10_000, deaf=timedelta(0))


def lose_skill(store: Store, champion: str = CHAMPION, *, week: int = 1) -> None:
    """The monitor's verdict of a week: an alert, and a reason to retrain."""
    at = NOW + timedelta(weeks=week)
    reason = TriggerReason(
        service=SERVICE, cause=Cause.PERFORMANCE, watermark=f"{at}", champion=champion, text="-"
    )
    degraded = Trouble(Condition.PERFORMANCE_DEGRADED, SERVICE, champion, "it lost its skill", "-")
    with store.write() as connection:
        raise_trigger(connection, reason, at=at, limits=OFTEN)
        raise_alert(connection, degraded, at=at)


def retrain(store: Store, answer: Answer) -> None:
    """Answer what waits."""
    with exclusive(store, training_lease(SERVICE), "run", timeout_s=0.0) as lease:
        claim = claim_triggers(store, SERVICE, "run", lease=lease, at=NOW, limits=OFTEN)
        assert claim is not None
        with store.write() as connection:
            answer_triggers(connection, claim, answer, at=NOW, model_id="refused_1")
