"""Reconcile looks after what died: rollouts are resumed, and MLflow shows the store again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from prefect.settings import PREFECT_API_URL

from flows.deploy import deploy
from flows.reconcile import reconcile
from mlops.errors import RegistryError, RolloutError
from mlops.rollout.controller import LEASE, LEASE_S
from mlops.rollout.plan import DeploymentConfig, RolloutSettings, Strategy
from mlops.store import (
    Phase,
    Store,
    get_rollout,
    get_route,
    list_events,
    list_replicas,
    list_rollouts,
    list_versions,
)
from mlops.store.leases import acquire_lease, release_lease
from tasks import training
from tests.flows.deployable import Deployable
from tests.flows.killed import deploy_slowly
from tests.project import SERVICE, Place
from tests.replicas import acknowledging
from tests.zygote import Process, Zygote

QUICK = RolloutSettings(dwell_s=0, bake_s=0, load_s=30)


def champion(store: Store) -> str:
    route = get_route(store, SERVICE)
    assert route is not None
    return route.champion


def alias(place: Place) -> str:
    client = place.registry.tracking.client
    return str(client.get_model_version_by_alias(SERVICE, "champion").tags["model_id"])


@contextmanager
def deploying(zygote: Zygote, place: Place, model_id: str, dwell_s: float) -> Iterator[Process]:
    """A deploy flow in another process; whatever happens it is dead at the end."""
    place.set(PREFECT_API_URL=PREFECT_API_URL.value(), PREFECT_LOGGING_LEVEL="ERROR")
    place.set(PREFECT_FLOWS_HEARTBEAT_FREQUENCY=600)
    process = zygote.spawn(deploy_slowly, model_id, dwell_s, log=place.base / "deploying.log")
    try:
        yield process
    finally:
        process.kill()


def wait_until(seen: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 90
    while not seen():
        assert process.alive, f"the flow ended before it could be killed:\n{process.tail()}"
        assert time.monotonic() < deadline, "the rollout never came so far"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_rollout_whose_flow_was_killed_is_carried_on_to_its_end(
    deployable: Deployable, zygote: Zygote
) -> None:
    place, challenger = deployable.place, deployable.challenger
    store = place.registry.store

    def halfway() -> bool:
        return any(row.phase is Phase.STEP for row in list_rollouts(store))

    with acknowledging(store):
        with deploying(zygote, place, challenger, dwell_s=8) as process:
            wait_until(halfway, process)
            process.kill()
        assert champion(store) != challenger
        result = reconcile()
    (row,) = list_rollouts(store)
    assert (row.phase, champion(store), alias(place)) == (Phase.DONE, challenger, challenger)
    assert [line.split()[2] for line in result.moved] == ["promoted:", "done:"]
    terms = [event.term for event in list_events(store, row.id)]
    assert terms == sorted(terms)
    assert terms[-1] > terms[1]


def test_what_was_only_asked_for_is_begun_and_finished(deployable: Deployable) -> None:
    store = deployable.place.registry.store
    asked = deploy(deployable.challenger, Strategy.ROLLING, wait=False, plan=QUICK)
    with acknowledging(store, "one", "two"):
        reconcile()
    assert get_rollout(store, asked.rollout_id).phase is Phase.DONE
    assert champion(store) == deployable.challenger


@pytest.mark.slow
def test_where_nothing_serves_it_brings_a_replica_along(deployable: Deployable) -> None:
    store = deployable.place.registry.store
    asked = deploy(deployable.challenger, wait=False, plan=QUICK)
    reconcile()
    assert get_rollout(store, asked.rollout_id).phase is Phase.DONE
    assert list_replicas(store) == ()


@pytest.mark.slow
def test_what_another_process_carries_is_left_to_it(deployable: Deployable) -> None:
    store = deployable.place.registry.store
    asked = deploy(deployable.challenger, wait=False, plan=QUICK)
    lease = acquire_lease(store, LEASE, "another", seconds=10 * LEASE_S)
    assert lease is not None
    with acknowledging(store):
        assert reconcile().moved == ()
    assert get_rollout(store, asked.rollout_id).phase is Phase.PENDING
    release_lease(store, lease)


@pytest.mark.slow
def test_it_stops_in_time_for_the_next_run(deployable: Deployable) -> None:
    store = deployable.place.registry.store
    patient = RolloutSettings(dwell_s=3600, load_s=30)
    asked = deploy(deployable.challenger, wait=False, plan=patient)
    began = time.monotonic()
    with acknowledging(store):
        reconcile(carry_s=3)
    assert time.monotonic() - began < 30
    assert get_rollout(store, asked.rollout_id).phase is Phase.STEP


def test_an_alias_moved_by_hand_is_put_back_once(deployable: Deployable) -> None:
    place = deployable.place
    reconcile()
    place.registry.tracking.client.delete_registered_model_alias(SERVICE, "champion")
    assert any("alias champion: none -> " in change for change in reconcile().repaired)
    assert reconcile().repaired == ()


def test_where_the_repair_fails_old_records_are_removed_all_the_same(
    project: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RegistryError("MLflow is away")

    old = project.base / "reports" / "linear-20250401T0000.html"
    old.parent.mkdir(exist_ok=True)
    old.touch()
    os.utime(old, (0, 0))
    monkeypatch.setattr("tasks.rollout.reconcile", fail)
    with pytest.raises(RegistryError):
        reconcile()
    assert not old.exists()


def test_a_training_leaves_the_wish_that_what_passed_go_live(project: Place) -> None:
    wanted = {"auto_deploy": True, "deployment_strategy": "canary"}
    result = project.train(deployment_config={**wanted, "dwell_s": 0, "bake_s": 0, "load_s": 30})
    row = get_rollout(project.registry.store, result.rollout_id)
    assert (row.to_version, row.phase, row.strategy) == (result.model_id, "waiting", "canary")
    assert (row.requested_by, row.plan["dwell_s"]) == ("train", 0)
    with acknowledging(project.registry.store):
        reconcile()
    assert champion(project.registry.store) == result.model_id


@pytest.mark.parametrize(
    ("passes", "config"),
    [
        (False, DeploymentConfig(auto_deploy=True)),
        pytest.param(True, DeploymentConfig(), marks=pytest.mark.slow),
        pytest.param(True, None, marks=pytest.mark.slow),
    ],
)
def test_what_was_refused_or_not_wanted_is_not_rolled_out(
    project: Place, passes: bool, config: DeploymentConfig | None
) -> None:
    project.set(MIN_R2_SCORE=0.1 if passes else 0.99)
    result = project.train(deployment_config=config)
    assert (result.passed, result.rollout_id) == (passes, "")
    assert list_rollouts(project.registry.store) == ()


def test_what_passed_while_a_rollout_is_open_waits_for_its_turn(deployable: Deployable) -> None:
    under_way = deploy(deployable.challenger, wait=False)
    result = deployable.place.train(seed=2, deployment_config=DeploymentConfig(auto_deploy=True))
    rows = list_rollouts(deployable.place.registry.store)
    assert {row.id: row.phase for row in rows} == {
        under_way.rollout_id: Phase.PENDING,
        result.rollout_id: Phase.WAITING,
    }


def test_a_training_that_dies_after_its_commit_is_rolled_out_all_the_same(
    project: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise OSError("no space left for the card")

    monkeypatch.setattr(training, "save_card", die)
    with pytest.raises(OSError, match="no space left"):
        project.train(deployment_config={"auto_deploy": True, **QUICK.changes})
    store = project.registry.store
    (row,) = list_rollouts(store)
    assert row.phase is Phase.WAITING
    with acknowledging(store):
        reconcile()
    assert get_rollout(store, row.id).phase is Phase.DONE
    assert champion(store) == row.to_version


def test_a_rollout_that_cannot_be_planned_is_refused_before_the_training(project: Place) -> None:
    with pytest.raises(RolloutError, match="each step would last"):
        project.train(deployment_config={"auto_deploy": True, "dwell_s": 9, "hold_s": 1})
    assert list_versions(project.registry.store) == ()
