"""A model from elsewhere is judged on later bars or on its record, and says whose word it rests on.

The story of register, judge, deploy and monitor runs without force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import GateError, RegistryError, RolloutRefused
from mlops.rollout.plan import plan_for
from mlops.rollout.wishes import insert_wish
from mlops.service import Service
from mlops.settings import FileClock
from mlops.store import ModelVersion, Status, Why, count_trials
from mlops.store.judgements import EvidenceKind, JudgementBasis, needs_person
from mlops.store.rollouts import newest_rollout_of
from tests.mlops.training.outside import AFTER, OutsideWorld, outside_world
from tests.project import skip_verification

QUICK: dict[str, Any] = {"dwell_s": 0, "bake_s": 0}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[OutsideWorld]:
    with (
        pytest.MonkeyPatch.context() as patch,
        outside_world(tmp_path_factory.mktemp("outside"), mlflow_template) as opened,
    ):
        skip_verification(patch)
        opened.begin(opened.service("volatility", 24))
        yield opened


@pytest.fixture(scope="module")
def volatility(world: OutsideWorld) -> Service:
    return world.service("volatility", 24)


@pytest.fixture(scope="module")
def honest(world: OutsideWorld, volatility: Service) -> ModelVersion:
    """Registered with its date, and judged on the bars after it."""
    return world.register(world.honest(volatility), volatility, trained_until=world.until)


def basis_of(version: ModelVersion) -> JudgementBasis:
    basis = JudgementBasis.of(version)
    assert basis is not None
    return basis


def wishes_to_go_live(world: OutsideWorld, version: ModelVersion) -> bool:
    """Whether ``auto_deploy`` would roll a version out."""
    with world.store.write() as connection:
        insert_wish(connection, version, plan=plan_for("canary"), why=Why(AFTER, reason="test"))
    return newest_rollout_of(world.store, version.model_id) is not None


def test_a_date_puts_a_model_before_every_gate(world: OutsideWorld, honest: ModelVersion) -> None:
    assert (honest.status, honest.claims_only) == (Status.CHALLENGER, False), honest.report
    names = {result["name"] for result in (honest.report or {})["results"]}
    assert names == {"G0", "G1", "limits", "G2", "G3", "G4", "G5"}
    assert honest.metrics["r2_score"] != 0.92
    assert basis_of(honest).claims["r2_score"] == 0.92
    assert honest == world.manager.get_model(honest.model_id)


def test_only_bars_after_the_date_are_judged(world: OutsideWorld, honest: ModelVersion) -> None:
    basis = basis_of(honest)
    assert basis.kind is EvidenceKind.WORD
    assert basis.since > world.until == basis.trained_until
    assert basis.bars == len(world.frame) - 1400 - 24


def test_report_explanation_and_card_say_that_the_date_is_the_callers_word(
    world: OutsideWorld, honest: ModelVersion
) -> None:
    report = world.manager.explain(honest.model_id)
    assert report.report is not None
    assert "only the caller's word" in report.report["caller's word"].reason
    assert "passed the gates on the caller's word" in report.verdict
    assert f"no bar after {world.until:%Y-%m-%d %H:%M} UTC was trained on" in str(report)
    card = world.settings.reports_path / f"{honest.model_id}.html"
    assert "word, which nobody checked" in card.read_text(encoding="utf-8")


def test_what_rests_on_the_word_goes_live_by_a_person_only(
    world: OutsideWorld, honest: ModelVersion
) -> None:
    assert needs_person(honest)
    assert not wishes_to_go_live(world, honest)


def test_a_second_judgement_of_the_same_bars_is_no_second_trial(
    world: OutsideWorld, honest: ModelVersion, volatility: Service
) -> None:
    before = count_trials(world.store, volatility.key)
    again = world.judge(honest.model_id, world.until)
    assert count_trials(world.store, volatility.key) == before
    assert basis_of(again).place == basis_of(honest).place
    assert again.report == honest.report


def test_without_a_date_a_model_has_claims_and_may_be_shadowed_only(
    world: OutsideWorld, volatility: Service
) -> None:
    version = world.register(world.honest(volatility), volatility)
    assert (version.status, version.claims_only) == (Status.REFUSED, True)
    assert "from its own source" in str(world.manager.explain(version.model_id))
    with pytest.raises(RolloutRefused, match=r"judge_model\(...\) judges it"):
        asyncio.run(world.manager.deploy_model(version.model_id, "canary", wait=False))
    asyncio.run(world.manager.deploy_model(version.model_id, "shadow", wait=False))
    shadow = newest_rollout_of(world.store, version.model_id)
    assert shadow is not None
    assert not shadow.forced
    asyncio.run(world.manager.abort_rollout(shadow.id, actor="ann", reason="enough"))


def test_its_own_record_replaces_the_word(world: OutsideWorld, volatility: Service) -> None:
    version = world.register(world.honest(volatility), volatility)
    with pytest.raises(GateError, match="0 forecasts with an outcome on record, 500 are needed"):
        world.judge(version.model_id)
    world.live_record(version)
    judged = world.judge(version.model_id, world.until)
    basis = basis_of(judged)
    assert (basis.kind, basis.trained_until) == (EvidenceKind.RECORD, None)
    assert basis.since >= AFTER
    assert basis.recorded == basis.bars
    assert not needs_person(judged)
    assert "on its own record" in world.manager.explain(version.model_id).verdict


@pytest.mark.parametrize(
    ("target", "horizon", "noise", "passes_on_its_word"),
    [("volatility", 24, 0.2, True), ("return", 1, 0.0, False), ("return", 1, 6.0, True)],
    ids=["volatility", "return", "return, blurred until no alarm rings"],
)
def test_a_table_of_past_outcomes_never_goes_live_by_itself_and_fails_on_its_record(
    world: OutsideWorld, target: str, horizon: int, noise: float, passes_on_its_word: bool
) -> None:
    service = world.service(target, horizon)
    world.begin(service)
    table = world.look_up(service, noise=noise)
    version = world.register(table, service, trained_until=world.frame.index[200].to_pydatetime())
    assert (version.status is Status.CHALLENGER) is passes_on_its_word, version.report
    assert not wishes_to_go_live(world, version)
    world.live_record(version, seed=9)
    judged = world.judge(version.model_id)
    assert judged.status is Status.REFUSED
    assert basis_of(judged).kind is EvidenceKind.RECORD
    with pytest.raises(RolloutRefused, match="its gates refused it"):
        asyncio.run(world.manager.deploy_model(version.model_id, "shadow", wait=False))


def test_bars_of_another_origin_leave_a_version_refused(
    world: OutsideWorld, volatility: Service, honest: ModelVersion
) -> None:
    version = world.register(world.honest(volatility), volatility)
    judged = world.judge(version.model_id, world.until, world.frame)
    basis = basis_of(judged)
    assert (judged.status, judged.claims_only) == (Status.REFUSED, True)
    assert not basis.own_bars
    assert len(basis.bars_digest) == 64
    assert "bars that its caller gave" in world.manager.explain(version.model_id).verdict
    with pytest.raises(RegistryError, match="other bars do not replace"):
        world.judge(honest.model_id, world.until, world.frame)
    assert world.judge(version.model_id, world.until).claims_only is False


@pytest.mark.parametrize(
    ("until", "message"),
    [
        (datetime(2024, 1, 1), "has no zone"),
        ("noon", "is no time"),
        (AFTER + timedelta(days=900), "lies in the future"),
    ],
)
def test_a_time_that_is_none_is_refused_before_anything_is_written(
    world: OutsideWorld, volatility: Service, until: object, message: str
) -> None:
    before = world.manager.list_models()
    with pytest.raises(GateError, match=message):
        world.register(world.honest(volatility), volatility, trained_until=until)
    assert world.manager.list_models() == before


def test_a_version_of_our_own_is_not_judged_again(world: OutsideWorld) -> None:
    baseline = world.manager.list_models(status="deployed")[0]
    with pytest.raises(RegistryError, match="was trained and judged here"):
        world.judge(baseline.model_id, world.until)


def test_too_few_later_bars_spend_nothing(world: OutsideWorld, volatility: Service) -> None:
    before = count_trials(world.store, volatility.key)
    late = world.frame.index[-100].to_pydatetime()
    version = world.register(world.honest(volatility), volatility, trained_until=late)
    assert version.claims_only
    with pytest.raises(GateError, match="at least 500 are needed"):
        world.judge(version.model_id, late)
    assert count_trials(world.store, volatility.key) == before


def test_in_a_replayed_market_a_record_still_needs_a_person(world: OutsideWorld) -> None:
    service = world.service("volatility", 6)
    world.begin(service, FileClock.REPLAY)
    version = world.register(world.honest(service), service)
    world.live_record(version)
    judged = world.judge(version.model_id)
    assert basis_of(judged).kind is EvidenceKind.RECORD
    assert needs_person(judged)


@pytest.mark.slow
def test_register_judge_deploy_and_monitor_need_no_force(
    world: OutsideWorld, volatility: Service
) -> None:
    version = world.register(world.honest(volatility), volatility, trained_until=world.until)
    assert asyncio.run(world.manager.deploy_model(version.model_id, "blue_green", **QUICK))
    assert world.manager.get_model(version.model_id).status is Status.DEPLOYED
    report = asyncio.run(world.manager.monitor_model_drift(version.model_id, world.frame[-400:]))
    assert report.recommendation
