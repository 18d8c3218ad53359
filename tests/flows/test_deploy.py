"""The deploy flow takes a challenger live, shows each step, and fails where it was undone."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.callables import parameter_schema

from flows.deploy import DeployResult, deploy, undo
from mlops.errors import RolloutError, RolloutFailed, RolloutRefused
from mlops.manager import MLOpsManager
from mlops.rollout.plan import RolloutSettings, Strategy
from mlops.settings import current_settings
from mlops.store import (
    Phase,
    Status,
    get_rollout,
    get_route,
    get_version,
    list_replicas,
    list_rollouts,
)
from tests.flows.deployable import Deployable
from tests.project import SERVICE, Place
from tests.replicas import acknowledging

QUICK = RolloutSettings(dwell_s=0, bake_s=0, load_s=10)


@pytest.fixture
def project(deployable: Deployable) -> Place:
    return deployable.place


@pytest.fixture
def challenger(deployable: Deployable) -> str:
    return deployable.challenger


def artifacts(key: str) -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        only = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=only)
    newest = max(found, key=lambda one: one.created)
    return list(json.loads(newest.data))


def test_a_canary_becomes_the_champion_step_by_step(project: Place, challenger: str) -> None:
    store = project.registry.store
    with acknowledging(store, "one", "two"):
        result = deploy(challenger, Strategy.CANARY, plan=QUICK, actor="anna", reason="better")
    assert isinstance(result, DeployResult)
    assert (result.phase, result.champion, result.service) == (Phase.DONE, challenger, SERVICE)
    weights = [event.detail["weight_bp"] for event in result.events if event.to_phase == "step"]
    assert weights == [1000, 2500, 5000, 10_000]
    assert get_version(store, challenger).status is Status.DEPLOYED
    assert (
        project.registry.tracking.client.get_model_version_by_alias(SERVICE, "champion").tags[
            "model_id"
        ]
        == challenger
    )
    row = get_rollout(store, result.rollout_id)
    assert row.requested_by == "anna"
    assert row.requested_why.startswith("better (flow run ")


@pytest.mark.slow
def test_each_step_is_drawn_with_its_evidence(project: Place, challenger: str) -> None:
    with acknowledging(project.registry.store):
        result = deploy(challenger, Strategy.CANARY, plan=QUICK)
    key = "deploy-simulator-btc-usd-1h-volatility-24"
    assert re.fullmatch(r"[a-z0-9-]+", key)
    table = artifacts(key)
    assert [row["phase"] for row in table] == [event.to_phase for event in result.events]
    (tenth,) = [row for row in table if row["weight"] == "10 %"]
    assert (tenth["samples"], tenth["faults"], tenth["verdict"]) == ("1000", "0", "good")
    assert tenth["evidence for worse"].endswith(" of 100")
    assert tenth["upper bound"].endswith("%")
    assert tenth["generation"] > 1


def test_a_version_that_fails_is_undone_and_fails_the_run(project: Place, challenger: str) -> None:
    store = project.registry.store
    before = get_route(store, SERVICE)
    assert before is not None
    with acknowledging(store, faults=500):
        state = deploy(challenger, Strategy.CANARY, plan=QUICK, return_state=True)
    assert state.is_failed()
    with pytest.raises(RolloutFailed, match="worse than the champion: 500 faults"):
        state.result()
    after = get_route(store, SERVICE)
    assert after is not None
    assert (after.champion, after.challenger) == (before.champion, None)
    assert get_version(store, challenger).status is Status.FAILED


@pytest.mark.slow
def test_a_version_that_does_not_load_is_undone(project: Place, challenger: str) -> None:
    broken = frozenset({challenger})
    with (
        acknowledging(project.registry.store, unloadable=broken),
        pytest.raises(RolloutFailed, match="its weights are broken"),
    ):
        deploy(challenger, plan=QUICK)


def test_what_its_gates_refused_is_not_taken_live(project: Place) -> None:
    project.set(MIN_R2_SCORE=0.99)
    refused = project.train()
    assert refused.status == Status.REFUSED
    with pytest.raises(RolloutRefused, match=r"its gates refused it.*force=True"):
        deploy(refused.model_id)
    with pytest.raises(RolloutRefused, match="needs a person and a reason"):
        deploy(refused.model_id, force=True)
    assert list_rollouts(project.registry.store) == ()


def test_a_person_may_answer_for_a_refused_one(project: Place) -> None:
    project.set(MIN_R2_SCORE=0.99)
    refused = project.train()
    with acknowledging(project.registry.store):
        result = deploy(refused.model_id, force=True, actor="anna", reason="a test", plan=QUICK)
    assert result.champion == refused.model_id
    assert get_rollout(project.registry.store, result.rollout_id).forced


def test_without_waiting_it_is_only_asked_for(project: Place, challenger: str) -> None:
    result = deploy(challenger, wait=False)
    assert (result.phase, len(result.events)) == (Phase.PENDING, 1)
    assert result.champion != challenger
    with pytest.raises(RolloutRefused, match=f"{result.rollout_id} is bringing {challenger} live"):
        deploy(challenger, wait=False)


def test_the_settings_say_how_it_goes_live(project: Place, challenger: str) -> None:
    project.set(DEFAULT_DEPLOYMENT_STRATEGY="canary", CANARY_TRAFFIC_PERCENTAGE=0.3)
    project.set(HEALTH_CHECK_TIMEOUT=7, ROLLOUT_DWELL_SECONDS=3, ROLLOUT_HOLD_HOURS=2)
    project.set(ROLLOUT_BAKE_SECONDS=5)
    result = deploy(challenger, wait=False, plan=RolloutSettings(dwell_s=4))
    row = get_rollout(project.registry.store, result.rollout_id)
    assert row.strategy == Strategy.CANARY
    plan = row.plan
    assert plan["weights_bp"] == [3000, 5000, 10_000]
    assert (plan["load_s"], plan["dwell_s"], plan["hold_s"], plan["bake_s"]) == (7, 4, 7200, 5)


def test_shares_that_do_not_rise_are_refused_in_words(project: Place, challenger: str) -> None:
    with pytest.raises(RolloutError, match="are not rising shares up to 10000"):
        deploy(challenger, Strategy.CANARY, plan=RolloutSettings(shares=(0.5, 0.2, 1)))


def test_a_cancelled_run_has_its_rollout_undone(project: Place, challenger: str) -> None:
    asked = deploy(challenger, wait=False)
    store = project.registry.store
    run_id = re.findall(
        r"flow run ([0-9a-f-]+)", get_rollout(store, asked.rollout_id).requested_why
    )
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(run_id[0])
        stranger = FlowRun(flow_id=run.flow_id, name="another")
    undo(flow=deploy, flow_run=stranger, state=run.state)
    assert get_rollout(store, asked.rollout_id).abort_requested is None
    undo(flow=deploy, flow_run=run, state=run.state)
    assert "was cancelled" in str(get_rollout(store, asked.rollout_id).abort_requested)


@pytest.mark.slow
def test_a_second_flow_only_looks_on_while_another_carries(project: Place, challenger: str) -> None:
    """Two flows of one rollout: one holds the role, and both see the end."""
    asked = deploy(challenger, wait=False, plan=QUICK)
    ends = []

    def follow() -> None:
        deployer = MLOpsManager(current_settings()).deployer
        ends.append(deployer.follow(asked.rollout_id, holder="test").phase)

    with acknowledging(project.registry.store):
        threads = [threading.Thread(target=follow) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert ends == [Phase.DONE, Phase.DONE]


def test_the_form_people_fill_in_offers_and_describes_every_choice() -> None:
    shown = parameter_schema(deploy.fn).model_dump()
    assert set(shown["definitions"]["Strategy"]["enum"]) == set(Strategy)
    described = {**shown["properties"], **shown["definitions"]["RolloutSettings"]["properties"]}
    assert [name for name, one in described.items() if not one.get("description")] == []


@pytest.mark.slow
def test_where_nothing_serves_a_replica_comes_along(project: Place, challenger: str) -> None:
    """Its trials are the newest bars, answered by the champion and the challenger."""
    result = deploy(challenger, Strategy.CANARY, plan=QUICK)
    assert (result.phase, result.champion) == (Phase.DONE, challenger)
    assert result.events[-1].detail["trials"] >= 500
    assert list_replicas(project.registry.store) == ()


def test_the_platforms_call_takes_a_version_live_and_back(project: Place, challenger: str) -> None:
    manager = MLOpsManager(current_settings())
    before = datetime.now(UTC)
    success = asyncio.run(
        manager.deploy_model(
            model_id=challenger, deployment_strategy="blue_green", dwell_s=0, bake_s=0
        )
    )
    assert success is True
    now = manager.who_was_live(SERVICE, datetime.now(UTC))
    then = manager.who_was_live(SERVICE, before)
    assert now is not None
    assert then is not None
    assert (now.champion, now.actor) == (challenger, "controller")
    assert then.champion != challenger
    back = asyncio.run(manager.rollback_model(challenger, actor="anna", reason="too slow"))
    assert back.champion == then.champion
    assert [reign.action for reign in manager.live_history(SERVICE)][-1] == "roll_back"
    assert manager.get_model(challenger).status is Status.RETIRED
