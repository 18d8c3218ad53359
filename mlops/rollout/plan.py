"""The plan of a rollout: the traffic share of each step and the seconds each phase may wait.

`plan_for` has the usual plan of each strategy, `plan_from` adds the settings. `RolloutSettings`
and `DeploymentConfig` are the forms that people fill in; an empty field keeps the usual value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from mlops.errors import RolloutError
from mlops.settings import Settings
from mlops.store import Phase

EVERYTHING_BP = 10_000
"""All traffic, in basis points."""

_LATER_CANARY_SHARES = (0.25, 0.5, 1.0)
_LARGEST_SPLIT_BP = 9500
_USUAL_SPLIT_BP = 5000


class Strategy(StrEnum):
    """How a version goes live.

    ``blue_green``: loaded beside the champion, then all traffic at once. ``canary``: a growing
    share. ``rolling``: all traffic of one replica after the other. ``shadow``: no traffic; it
    forecasts beside the champion and is never promoted. ``ab_test``: a fixed share, until an A/B
    test has its verdict.
    """

    BLUE_GREEN = "blue_green"
    CANARY = "canary"
    ROLLING = "rolling"
    SHADOW = "shadow"
    AB_TEST = "ab_test"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """All figures of a rollout; times in seconds.

    ``weights_bp`` are the shares of its steps in basis points. ``load_s`` is how long replicas
    may take to load and acknowledge, ``gate_s`` and ``hold_s`` how long gate and each step may
    wait for evidence, ``dwell_s`` how long a step lasts at least, ``bake_s`` how long the
    version is watched after its promotion. ``max_fault_rate`` is the largest share of its
    trials that may fail, ``min_gate_trials`` how many it needs before it gets any traffic.
    """

    strategy: Strategy
    weights_bp: tuple[int, ...]
    load_s: float
    gate_s: float
    dwell_s: float
    hold_s: float
    bake_s: float
    max_fault_rate: float = 0.01
    min_gate_trials: int = 20

    def __post_init__(self) -> None:
        self._check_shares()
        for name in ("load_s", "gate_s", "hold_s"):
            if not getattr(self, name) > 0:
                raise RolloutError(f"{name} is {getattr(self, name)}; give it more than 0 seconds")
        if self.dwell_s > self.hold_s:
            raise RolloutError(
                f"each step would last dwell_s={self.dwell_s:g} and be undone after "
                f"hold_s={self.hold_s:g}: let it wait for longer than it lasts "
                "(ROLLOUT_HOLD_HOURS, ROLLOUT_DWELL_SECONDS)"
            )
        if min(self.dwell_s, self.bake_s) < 0 or not 0 < self.max_fault_rate < 1:
            raise RolloutError(
                f"dwell_s={self.dwell_s}, bake_s={self.bake_s}, max_fault_rate="
                f"{self.max_fault_rate}: times are not negative, the rate lies between 0 and 1"
            )

    def _check_shares(self) -> None:
        shares = self.weights_bp
        if self.strategy is Strategy.AB_TEST:
            if len(shares) != 1 or not 0 <= shares[0] <= _LARGEST_SPLIT_BP:
                raise RolloutError(
                    f"weights {shares} of an A/B test are not one share of 0 to "
                    f"{_LARGEST_SPLIT_BP} basis points for the challenger"
                )
            return
        rising = all(a < b for a, b in pairwise(shares))
        end = 0 if self.strategy is Strategy.SHADOW else EVERYTHING_BP
        if not shares or not rising or shares[-1] != end or min(shares) < 0:
            raise RolloutError(
                f"weights {shares} of a {self.strategy} rollout are not rising shares up to "
                f"{end} basis points"
            )

    @property
    def promotes(self) -> bool:
        """Whether the rollout may end with a new champion."""
        return self.strategy is not Strategy.SHADOW

    @property
    def one_by_one(self) -> bool:
        """Whether replicas take part one after the other."""
        return self.strategy is Strategy.ROLLING

    def patience(self, phase: Phase) -> timedelta:
        """How long a rollout may stay in a phase before its deadline."""
        seconds = {
            Phase.GATE: self.load_s + self.gate_s,
            Phase.STEP: self.load_s + self.hold_s,
            Phase.PROMOTED: self.load_s + self.bake_s,
        }
        return timedelta(seconds=seconds.get(phase, self.load_s))

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {**asdict(self), "weights_bp": list(self.weights_bp)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the plan from what `to_dict` returned."""
        known = {field.name: values[field.name] for field in fields(cls)}
        known |= {
            "strategy": Strategy(values["strategy"]),
            "weights_bp": tuple(values["weights_bp"]),
        }
        return cls(**known)


_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
_TIMES: Mapping[Strategy, Mapping[str, float]] = {
    Strategy.BLUE_GREEN: {"gate_s": _HOUR, "dwell_s": 30.0, "hold_s": _DAY, "bake_s": 120.0},
    Strategy.CANARY: {"gate_s": _HOUR, "dwell_s": _MINUTE, "hold_s": _DAY, "bake_s": 300.0},
    Strategy.ROLLING: {"gate_s": _HOUR, "dwell_s": 30.0, "hold_s": _DAY, "bake_s": 120.0},
    Strategy.SHADOW: {"gate_s": _HOUR, "dwell_s": _DAY, "hold_s": 2 * _DAY, "bake_s": 0.0},
    Strategy.AB_TEST: {"gate_s": _HOUR, "dwell_s": 0.0, "hold_s": 11 * _DAY, "bake_s": 300.0},
}


def plan_for(
    strategy: Strategy | str,
    *,
    canary_share: float = 0.1,
    load_s: float = 30.0,
    **changes: Any,
) -> RolloutPlan:
    """The usual plan of a strategy.

    Args:
        strategy: A `Strategy` or its name.
        canary_share: The first share of a canary (above 0, at most 1).
        load_s: Seconds that replicas may take to load the version and to acknowledge a route.
        **changes: Values for other fields of `RolloutPlan`.

    Raises:
        RolloutError: for an unknown strategy or field, or a share out of range.

    A canary takes a tenth of the traffic first, then a quarter, a half and all:

        >>> plan_for("canary").weights_bp
        (1000, 2500, 5000, 10000)
        >>> plan_for("blue_green", bake_s=600.0).bake_s
        600.0
    """
    try:
        chosen = Strategy(strategy)
    except ValueError as error:
        raise RolloutError(
            f"deployment_strategy={strategy!r} is not one of {', '.join(Strategy)}"
        ) from error
    unknown = sorted(set(changes) - {field.name for field in fields(RolloutPlan)})
    if unknown:
        raise RolloutError(
            f"a rollout has no setting {unknown[0]!r}; it has "
            f"{', '.join(field.name for field in fields(RolloutPlan) if field.name != 'strategy')}"
        )
    usual = {"weights_bp": _weights(chosen, canary_share), "load_s": load_s, **_TIMES[chosen]}
    return RolloutPlan(strategy=chosen, **{**usual, **changes})


def _weights(strategy: Strategy, canary_share: float) -> tuple[int, ...]:
    if strategy is Strategy.SHADOW:
        return (0,)
    if strategy is Strategy.AB_TEST:
        return (_USUAL_SPLIT_BP,)
    if strategy is not Strategy.CANARY:
        return (EVERYTHING_BP,)
    if not 0 < canary_share <= 1:
        raise RolloutError(
            f"CANARY_TRAFFIC_PERCENTAGE={canary_share} is not a share above 0 and at most 1; "
            "a tenth is 0.1"
        )
    later = (share for share in _LATER_CANARY_SHARES if share > canary_share)
    return tuple(round(share * EVERYTHING_BP) for share in (canary_share, *later))


def ab_test_plan(split_bp: int, *, duration_s: float, **changes: Any) -> RolloutPlan:
    """The plan of the rollout that carries an A/B test.

    Args:
        split_bp: The challenger's share, 0 to 9500 basis points.
        duration_s: Seconds of wall time that the test is planned to take. It is undone when
            nobody has evaluated it for twice that and a week.
        **changes: Values for other fields of `RolloutPlan`.

    Raises:
        RolloutError: for a share or a field out of range.
    """
    hold_s = 2 * duration_s + 7 * _DAY
    return plan_for(Strategy.AB_TEST, weights_bp=(split_bp,), **{"hold_s": hold_s, **changes})


SECONDS_PER_HOUR = 3600.0

Share = Annotated[float, Field(gt=0, le=1)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeSeconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RolloutSettings(BaseModel):
    """Choices for one rollout; an empty field has the value of the settings or the strategy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shares: tuple[Share, ...] | None = Field(
        None, description="Shares of the traffic, step by step, rising to 1 (a tenth is 0.1)"
    )
    dwell_s: NonNegativeSeconds | None = Field(None, description="Seconds each step lasts at least")
    hold_s: PositiveSeconds | None = Field(
        None, description="Seconds each step may wait for evidence; then it is undone"
    )
    gate_s: PositiveSeconds | None = Field(
        None, description="Seconds to wait for the first answers, before it gets any traffic"
    )
    bake_s: NonNegativeSeconds | None = Field(
        None, description="Seconds the version is watched after its promotion"
    )
    load_s: PositiveSeconds | None = Field(
        None, description="Seconds replicas may take to load it and acknowledge"
    )
    max_fault_rate: float | None = Field(
        None, gt=0, lt=1, description="Largest share of its answers that may fail"
    )
    min_gate_trials: int | None = Field(
        None, ge=0, description="Answers it must give before it gets any traffic"
    )

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that were filled in, by the names of `RolloutPlan`."""
        given = self.model_dump(exclude_none=True, include=set(RolloutSettings.model_fields))
        shares = given.pop("shares", None)
        if shares is not None:
            given["weights_bp"] = tuple(round(share * EVERYTHING_BP) for share in shares)
        return given


class AbTestSettings(BaseModel):
    """The A/B test by which a version that passed its gates goes live; times in market hours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", max_length=200, description="What the test is called")
    traffic_split: float = Field(
        0.5, ge=0, le=_LARGEST_SPLIT_BP / EVERYTHING_BP,
        description="Share of the requests that the new version answers",
    )  # fmt: skip
    duration_hours: float = Field(
        48.0, gt=0, allow_inf_nan=False,
        description="How long it lasts; longer where a verdict needs it",
    )  # fmt: skip
    promote: bool = Field(True, description="Whether a better version goes live")


class DeploymentConfig(RolloutSettings):
    """Whether and how a version that passed its gates goes live."""

    auto_deploy: bool = Field(False, description="Ask for its rollout as soon as it has passed")
    deployment_strategy: Strategy | None = Field(
        None, description="How it goes live; empty: DEFAULT_DEPLOYMENT_STRATEGY"
    )
    ab_test: AbTestSettings | None = Field(
        None, description="With auto_deploy: compare it with the champion first; empty: do not"
    )


def plan_from(
    settings: Settings, strategy: Strategy | str | None, changes: Mapping[str, Any]
) -> RolloutPlan:
    """The plan of a strategy with the values of the settings; ``changes`` override both.

    Raises:
        RolloutError: for an unknown strategy or field, a value out of range, or an A/B test, which
            has a plan of its own (`ab_test_plan`).
    """
    if strategy == Strategy.AB_TEST:
        raise RolloutError(
            f"deployment_strategy={strategy!s} needs a test to follow; start one with "
            "manager.start_ab_test(), or use auto_deploy with deployment_config['ab_test']"
        )
    hours = settings.rollout_hold_hours
    configured = {
        "canary_share": settings.canary_traffic_percentage,
        "load_s": settings.health_check_timeout,
        "dwell_s": settings.rollout_dwell_seconds,
        "bake_s": settings.rollout_bake_seconds,
        "hold_s": None if hours is None else hours * SECONDS_PER_HOUR,
    }
    given = {name: value for name, value in configured.items() if value is not None}
    return plan_for(strategy or settings.default_deployment_strategy, **{**given, **changes})


def plan_from_test(settings: Settings, test: AbTestSettings) -> RolloutPlan:
    """The plan of a rollout that is to carry a test, which is planned anew when it begins."""
    return ab_test_plan(
        round(test.traffic_split * EVERYTHING_BP),
        duration_s=test.duration_hours * SECONDS_PER_HOUR,
        load_s=settings.health_check_timeout,
    )
