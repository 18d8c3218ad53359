"""What people ask of a rollout becomes a plan: what they say, then the settings, then the usual."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mlops.errors import RolloutError
from mlops.rollout.plan import DeploymentConfig, RolloutSettings, Strategy, plan_for, plan_from
from mlops.settings import Settings


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)


@pytest.mark.parametrize("strategy", Strategy)
def test_nothing_said_is_the_usual_plan(strategy: Strategy) -> None:
    assert plan_from(settings(), strategy, RolloutSettings().changes) == plan_for(strategy)


def test_the_settings_replace_the_usual() -> None:
    plan = plan_from(
        settings(
            default_deployment_strategy="canary",
            canary_traffic_percentage=0.2,
            health_check_timeout=9,
            rollout_dwell_seconds=0,
            rollout_bake_seconds=5,
            rollout_hold_hours=2,
        ),
        None,
        {},
    )
    assert (plan.strategy, plan.weights_bp[0]) == (Strategy.CANARY, 2000)
    assert (plan.load_s, plan.dwell_s, plan.bake_s, plan.hold_s) == (9, 0, 5, 7200)


def test_what_is_said_replaces_the_settings() -> None:
    said = RolloutSettings(shares=(0.05, 1), dwell_s=0, load_s=3, max_fault_rate=0.02)
    plan = plan_from(settings(rollout_dwell_seconds=60), Strategy.CANARY, said.changes)
    assert plan.weights_bp == (500, 10_000)
    assert (plan.dwell_s, plan.load_s, plan.max_fault_rate) == (0, 3, 0.02)


def test_whether_to_deploy_is_no_part_of_the_plan() -> None:
    config = DeploymentConfig(auto_deploy=True, deployment_strategy=Strategy.ROLLING, bake_s=1)
    assert config.changes == {"bake_s": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"dwell_s": -1},
        {"hold_s": 0},
        {"load_s": float("inf")},
        {"bake_s": float("nan")},
        {"shares": [0, 1]},
        {"shares": [0.5, 1.5]},
        {"max_fault_rate": 1},
        {"speed": 1},
    ],
)
def test_a_form_with_an_impossible_value_names_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RolloutSettings(**wrong)


def test_a_step_that_would_be_undone_before_it_has_lasted_is_refused() -> None:
    with pytest.raises(RolloutError, match="ROLLOUT_HOLD_HOURS"):
        plan_from(settings(rollout_hold_hours=1), Strategy.SHADOW, {})


def test_an_unknown_strategy_is_refused_with_those_there_are() -> None:
    with pytest.raises(RolloutError, match="blue_green, canary, rolling, shadow"):
        plan_from(settings(), "big_bang", {})


def test_every_time_of_a_plan_can_be_said() -> None:
    form = set(RolloutSettings.model_fields) - {"shares"} | {"weights_bp"}
    assert form == set(plan_for(Strategy.CANARY).to_dict()) - {"strategy"}
