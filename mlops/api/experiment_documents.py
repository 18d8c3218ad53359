"""A/B tests as answers: in the words of model A and model B, as their caller named them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal

from mlops.ab_testing.answers import AbTestAnswer
from mlops.ab_testing.preflight import Preflight
from mlops.api.documents import Document, Id, Json, Utc
from mlops.store import AbLook
from mlops.store.schema import AbState

NOT_LOADED = "not_loaded"


class ExperimentStatus(StrEnum):
    """``collecting``: the pairs are too few for a verdict on the losses."""

    COLLECTING = "collecting"
    RUNNING = "running"
    CONCLUDED = "concluded"


class PlanDocument(Document):
    """What a test can be expected to see; gains are shares of the champion's loss.

    A gain is null where the versions have no ten two-week blocks of common past.
    """

    pairs: int
    pairs_needed: int
    hours_needed: float
    can_decide: bool
    record_blocks: int
    gain_seen_with_80_percent: float | None
    gain_on_holdout: float | None
    hours_for_that_gain: float | None
    text: str

    @classmethod
    def of(cls, plan: Preflight) -> PlanDocument:
        return cls(
            pairs=plan.planned_pairs,
            pairs_needed=plan.needed_pairs,
            hours_needed=plan.needed_hours,
            can_decide=plan.can_decide,
            record_blocks=plan.blocks,
            gain_seen_with_80_percent=plan.gain_seen,
            gain_on_holdout=plan.past_gain,
            hours_for_that_gain=plan.past_gain_hours,
            text=plan.text,
        )


class ArmCounts(Document):
    """A count of each model."""

    a: int
    b: int


class StartedExperiment(Document):
    """A test that has begun, with its plan."""

    experiment_id: Id
    test_name: str
    service: Id
    status: ExperimentStatus
    model_a_id: Id
    model_b_id: Id
    champion: Literal["model_a", "model_b"]
    traffic_split: float
    since_bar: Utc
    until_bar: Utc
    rollout_id: Id
    plan: PlanDocument
    warnings: list[str]

    @classmethod
    def of(cls, answer: AbTestAnswer, plan: Preflight) -> StartedExperiment:
        return cls(**_name_sides(answer), plan=PlanDocument.of(plan), warnings=list_warnings(plan))


class EvaluationDocument(Document):
    """What a look at a test found.

    ``effect`` is model B's gain over model A as a share of the champion's loss, and ``interval``
    bounds it; both are above 0 where B is better. Bars without a forecast of an arm are
    ``not_loaded`` where no replica held its version, else ``not_answered``; ``holes`` are bars that
    neither has forecast.
    """

    experiment_id: Id
    status: ExperimentStatus
    verdict: str | None
    winner: Id | None
    confidence_level: float
    p_value: float | None
    effect: float | None
    interval: list[float] | None
    pairs: int
    pairs_needed: int | None
    pairs_missing: int | None
    holes: int
    not_answered: ArmCounts
    not_loaded: ArmCounts
    requests: ArmCounts
    text: str

    @classmethod
    def of(cls, answer: AbTestAnswer) -> EvaluationDocument:
        return cls(experiment_id=answer.id, status=find_status(answer), **_list_figures(answer))


class ExperimentDocument(EvaluationDocument):
    """A test with what its newest look found; the fields are those of its start and evaluation."""

    test_name: str
    service: Id
    model_a_id: Id
    model_b_id: Id
    champion: Literal["model_a", "model_b"]
    traffic_split: float
    since_bar: Utc
    until_bar: Utc
    rollout_id: Id

    @classmethod
    def of(cls, answer: AbTestAnswer) -> ExperimentDocument:
        return cls(**_name_sides(answer), **_list_figures(answer))


class ExperimentList(Document):
    """A page of tests, newest first."""

    experiments: list[ExperimentDocument]
    next: str | None


class LookDocument(Document):
    """One look at a test, in the words of champion and challenger.

    ``mean`` is of the champion's loss less the challenger's, ``relative_low`` and
    ``relative_high`` bound it as a share of the champion's loss.
    """

    bar: Utc
    at: Utc
    pairs: int
    mean: float | None
    standard_error: float | None
    variance_source: str | None
    low: float | None
    high: float | None
    relative_low: float | None
    relative_high: float | None
    p: float
    holes: int
    missing: Json
    dealt: Json
    word: str | None
    detail: Json
    digest: str

    @classmethod
    def of(cls, look: AbLook) -> LookDocument:
        values = {name: getattr(look, name) for name in cls.model_fields}
        word = None if look.word is None else str(look.word)
        return cls(**values | {"missing": dict(look.missing), "word": word})


class LookList(Document):
    """The looks at a test, oldest first."""

    experiment_id: Id
    looks: list[LookDocument]


def find_status(answer: AbTestAnswer) -> ExperimentStatus:
    """The status of a test as a caller is told it."""
    if answer.state == AbState.CONCLUDED:
        return ExperimentStatus.CONCLUDED
    return ExperimentStatus.COLLECTING if answer.is_collecting else ExperimentStatus.RUNNING


def list_warnings(plan: Preflight) -> list[str]:
    """What a caller should know of a plan before the test is over."""
    if plan.can_decide:
        return []
    return [
        f"{plan.duration_hours:,.0f} hours give {plan.planned_pairs:,} pairs; nothing can be "
        f"decided below {plan.needed_pairs:,} ({plan.needed_hours:,.0f} hours). It will end as "
        "inconclusive; extend it, or start it with on_short_plan=extend"
    ]


def _name_sides(answer: AbTestAnswer) -> dict[str, Any]:
    return {
        "experiment_id": answer.id,
        "test_name": answer.name,
        "service": answer.service,
        "status": find_status(answer),
        "model_a_id": answer.model_a,
        "model_b_id": answer.model_b,
        "champion": "model_a" if answer.champion == answer.model_a else "model_b",
        "traffic_split": answer.traffic_split,
        "since_bar": answer.since_bar,
        "until_bar": answer.until_bar,
        "rollout_id": answer.rollout_id,
    }


def _list_figures(answer: AbTestAnswer) -> dict[str, Any]:
    look, needed = answer.look, answer.pairs_needed
    bounds = (answer.low, answer.high)
    return {
        "verdict": answer.verdict,
        "winner": answer.winner,
        "confidence_level": answer.confidence_level,
        "p_value": None if answer.is_collecting else answer.p,
        "effect": answer.effect,
        "interval": None if None in bounds else list(bounds),
        "pairs": answer.pairs,
        "pairs_needed": needed,
        "pairs_missing": None if needed is None else max(needed - answer.pairs, 0),
        "holes": 0 if look is None else look.holes,
        "not_answered": _count_arms(answer, lambda arm: _count_missing(look, arm, loaded=True)),
        "not_loaded": _count_arms(answer, lambda arm: _count_missing(look, arm, loaded=False)),
        "requests": _count_arms(answer, lambda arm: 0 if look is None else look.dealt.get(arm, 0)),
        "text": answer.text,
    }


def _count_arms(answer: AbTestAnswer, count: Callable[[str], int]) -> ArmCounts:
    """Counts of champion and challenger as those of model A and model B."""
    arms = ("champion", "challenger")
    a, b = arms if answer.champion == answer.model_a else reversed(arms)
    return ArmCounts(a=count(a), b=count(b))


def _count_missing(look: AbLook | None, arm: str, *, loaded: bool) -> int:
    reasons: Mapping[str, int] = {} if look is None else look.missing.get(arm, {})
    return sum(count for reason, count in reasons.items() if (reason != NOT_LOADED) is loaded)
