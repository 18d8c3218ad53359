"""What a rollout may be told, as a form people fill in; what is left empty is the usual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mlops.rollout.plan import EVERYTHING_BP, Plan, Strategy, plan_for
from mlops.settings import Settings

SECONDS_PER_HOUR = 3600.0

Share = Annotated[float, Field(gt=0, le=1)]
Waiting = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Lasting = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RolloutSettings(BaseModel):
    """One rollout's choices; an empty one comes from the settings, or from its strategy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shares: tuple[Share, ...] | None = Field(
        None, description="Shares of the traffic, step by step, rising to 1 (a tenth is 0.1)"
    )
    dwell_s: Lasting | None = Field(None, description="Seconds each step lasts at least")
    hold_s: Waiting | None = Field(
        None, description="Seconds each step may wait for evidence; then it is undone"
    )
    gate_s: Waiting | None = Field(
        None, description="Seconds to wait for the first answers, before it gets any traffic"
    )
    bake_s: Lasting | None = Field(
        None, description="Seconds the version is watched after its promotion"
    )
    load_s: Waiting | None = Field(
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
        """What differs from the usual plan, by the plan's names."""
        given = self.model_dump(exclude_none=True, include=set(RolloutSettings.model_fields))
        shares = given.pop("shares", None)
        if shares is not None:
            given["weights_bp"] = tuple(round(share * EVERYTHING_BP) for share in shares)
        return given


class DeploymentConfig(RolloutSettings):
    """What happens to a version that passed its gates."""

    auto_deploy: bool = Field(False, description="Ask for its rollout as soon as it has passed")
    deployment_strategy: Strategy | None = Field(
        None, description="How it goes live; empty: DEFAULT_DEPLOYMENT_STRATEGY"
    )


def plan_from(
    settings: Settings, strategy: Strategy | str | None, changes: Mapping[str, Any]
) -> Plan:
    """The plan of a strategy by this configuration; ``changes`` win.

    Raises:
        RolloutError: for an unknown strategy or field, or a value out of range.
    """
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
