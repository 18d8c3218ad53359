"""A plan has all figures of a strategy, the settings and a form, or says what is wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from mlops.errors import RolloutError
from mlops.rollout.plan import (
    EVERYTHING_BP,
    DeploymentConfig,
    RolloutPlan,
    RolloutSettings,
    Strategy,
    ab_test_plan,
    plan_for,
    plan_from,
)
from mlops.settings import Settings
from mlops.store import Phase


@pytest.mark.parametrize(
    ("strategy", "weights"),
    [
        ("canary", (1000, 2500, 5000, 10_000)),
        ("blue_green", (10_000,)),
        ("rolling", (10_000,)),
        ("shadow", (0,)),
    ],
)
def test_each_strategy_has_its_shares(strategy: str, weights: tuple[int, ...]) -> None:
    plan = plan_for(strategy)
    assert plan.weights_bp == weights
    assert plan.promotes == (strategy != "shadow")
    assert plan.one_by_one == (strategy == "rolling")


@pytest.mark.parametrize(
    ("share", "weights"),
    [
        (0.05, (500, 2500, 5000, 10_000)),
        (0.25, (2500, 5000, 10_000)),
        (0.3, (3000, 5000, 10_000)),
        (0.999, (9990, 10_000)),
        (1.0, (10_000,)),
    ],
)
def test_a_canary_begins_with_the_share_it_is_given(share: float, weights: tuple[int]) -> None:
    assert plan_for(Strategy.CANARY, canary_share=share).weights_bp == weights


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, 10, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(RolloutError, match="CANARY_TRAFFIC_PERCENTAGE"):
        plan_for(Strategy.CANARY, canary_share=share)


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RolloutError, match="'bluegreen' is not one of blue_green, canary"):
        plan_for("bluegreen")


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RolloutError, match="no setting 'wait_s'; it has weights_bp, load_s"):
        plan_for("canary", wait_s=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_bp": ()}, "not rising shares"),
        ({"weights_bp": (5000, 5000, 10_000)}, "not rising shares"),
        ({"weights_bp": (5000, 2500, 10_000)}, "not rising shares"),
        ({"weights_bp": (1000, 5000)}, "up to 10000"),
        ({"weights_bp": (1000, 20_000)}, "up to 10000"),
        ({"weights_bp": (-1, 10_000)}, "not rising shares"),
        ({"load_s": 0.0}, "load_s is 0.0"),
        ({"gate_s": -1.0}, "gate_s is -1.0"),
        ({"hold_s": float("nan")}, "hold_s is nan"),
        ({"dwell_s": -1.0}, "dwell_s=-1.0"),
        ({"bake_s": -1.0}, "bake_s=-1.0"),
        ({"max_fault_rate": 0.0}, "max_fault_rate=0.0"),
        ({"max_fault_rate": 1.0}, "max_fault_rate=1.0"),
    ],
)
def test_an_impossible_plan_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        plan_for("canary", **changes)


def test_a_shadow_never_gets_a_share() -> None:
    with pytest.raises(RolloutError, match="shadow rollout are not rising shares up to 0"):
        plan_for("shadow", weights_bp=(0, 10_000))


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_plan_survives_the_store(strategy: Strategy) -> None:
    plan = plan_for(strategy, max_fault_rate=0.02)
    assert RolloutPlan.from_dict(plan.to_dict()) == plan


def test_each_phase_waits_for_what_it_needs() -> None:
    plan = plan_for("canary", load_s=10, gate_s=100, hold_s=1000, bake_s=5)
    seconds = {phase: plan.patience(phase) for phase in Phase}
    ten = timedelta(seconds=10)
    assert seconds[Phase.GATE] == ten + timedelta(seconds=100)
    assert seconds[Phase.STEP] == ten + timedelta(seconds=1000)
    assert seconds[Phase.PROMOTED] == ten + timedelta(seconds=5)
    assert {seconds[p] for p in (Phase.PENDING, Phase.LOADING, Phase.ROLLBACK)} == {ten}


def test_everything_is_ten_thousand_basis_points() -> None:
    assert EVERYTHING_BP == 10_000


# Settings and forms ------------------------------------------------------------------------------


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)


@pytest.mark.parametrize("strategy", [one for one in Strategy if one != "ab_test"])
def test_nothing_said_is_the_usual_plan(strategy: Strategy) -> None:
    assert plan_from(settings(), strategy, RolloutSettings().changes) == plan_for(strategy)


def test_settings_make_no_plan_of_a_test() -> None:
    with pytest.raises(RolloutError, match="start one with manager"):
        plan_from(settings(), "ab_test", {})


@pytest.mark.parametrize("split_bp", [0, 5000, 9500])
def test_a_test_ends_at_its_split(split_bp: int) -> None:
    plan = ab_test_plan(split_bp, duration_s=3600.0)
    assert (plan.strategy, plan.weights_bp) == (Strategy.AB_TEST, (split_bp,))
    assert plan.hold_s == 2 * 3600.0 + 7 * 86_400.0
    assert RolloutPlan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("weights", [(), (-1,), (9501,), (1000, 5000)])
def test_a_test_has_one_share_that_leaves_some_to_the_champion(weights: tuple[int, ...]) -> None:
    with pytest.raises(RolloutError, match="are not one share of 0 to 9500"):
        plan_for("ab_test", weights_bp=weights)


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
