"""What one process has begun in MLflow is cleaned by nobody while it may still be at work.

Two installations share an MLflow, or two machines a store; both run in this process, so host name
and process id are the same.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import BundleUnavailable, LeaseLost, RegistryError, StoreError
from mlops.registry import (
    Candidate,
    Registry,
    bundle_folders,
    exclusive_registration,
    find_unknown_versions,
    open_run,
    owner_tags,
    reconcile,
    register,
)
from mlops.registry import registration as registration_module
from mlops.registry.connection import load
from mlops.registry.ownership import INSTALLATION_TAG, REGISTRATION, installation_id
from mlops.store import Status, Why, list_versions, open_store
from mlops.store.leases import acquire_lease, exclusive
from mlops.store.schema import lease, version
from mlops.store.versions import change_status

from .conftest import AT, SERVICE, opened_at

repairs = registration_module.reconcile
"""The module, whose name in `mlops.registry` is that of its function."""

pytestmark = pytest.mark.usefixtures("unverified")
TRAINING = f"training:{SERVICE.key}"


@pytest.fixture
def neighbour(registry: Registry, tmp_path: Path, mlruns: str) -> Iterator[Registry]:
    """Another installation beside the same MLflow."""
    opened = opened_at(tmp_path / "neighbour", mlruns)
    yield opened
    opened.store.close()


@pytest.fixture
def machine(registry: Registry, tmp_path: Path) -> Iterator[Registry]:
    """Another machine on the same store."""
    url = registry.store.engine.url.render_as_string(hide_password=False)
    with closing(open_store(url)) as store:
        yield replace(registry, store=store, home=tmp_path / "machine")


def end_leases(registry: Registry) -> None:
    """As after a process was killed, or stalled for longer than its leases last."""
    with registry.store.write() as connection:
        connection.execute(lease.update().values(until=0.0))


def when(
    patch: pytest.MonkeyPatch, moment: str, act: Callable[[], object], *, calls: int = 1
) -> list[object]:
    """Act at the end of a step of registration, or before one; returns what the acts returned."""
    name, at = moment.split()[1], moment.split(maxsplit=1)[0]
    real = getattr(registration_module, name)
    acted: list[object] = []

    def step(*given: Any, **named: Any) -> Any:
        answer = None if at == "before" else real(*given, **named)
        if len(acted) < calls:
            acted.append(act())
        return real(*given, **named) if at == "before" else answer

    patch.setattr(registration_module, name, step)
    return acted


def versions(registry: Registry) -> dict[int, str]:
    """Number and status of each version that MLflow shows."""
    shown = registry.tracking.client.search_model_versions(f"name = '{SERVICE.key}'")
    return {int(one.version): one.tags["status"] for one in shown}


def aliases(registry: Registry) -> dict[str, int]:
    shown = registry.tracking.client.get_registered_model(SERVICE.key).aliases
    return {alias: int(number) for alias, number in shown.items()}


def test_a_second_machine_is_refused_a_bundle_in_a_folder_of_the_first(
    registry: Registry, machine: Registry, candidate: Candidate
) -> None:
    row = register(registry, candidate, Why(AT))
    second = replace(machine, bundles=bundle_folders(machine.home, "http://mlflow:5000"))
    with pytest.raises(BundleUnavailable, match="mlflow server --serve-artifacts"):
        load(second, row.model_id)
    assert load(machine, row.model_id).digest == row.digest


DURING = ("after log_model", "after create_version", "before _commit", "before _show_in_mlflow")


@pytest.mark.parametrize("moment", DURING)
def test_a_neighbour_removes_nothing_of_a_registration_under_way(
    registry: Registry,
    neighbour: Registry,
    candidate: Candidate,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    acted = when(monkeypatch, moment, lambda: reconcile(neighbour).changes)
    row = register(registry, candidate, Why(AT))
    assert acted == [()]
    assert load(registry, row.model_id).digest == row.digest
    assert versions(registry) == {1: "challenger"}


def test_a_neighbour_leaves_a_draft_alone_whose_term_is_over(
    registry: Registry, neighbour: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its own installation knows whether it was committed."""
    with monkeypatch.context() as patch:
        when(patch, "before _show_in_mlflow", lambda: end_leases(registry))
        patch.setattr(registration_module, "_show_in_mlflow", lambda *_: end_leases(registry))
        row = register(registry, candidate, Why(AT))
    assert versions(registry) == {1: "pending"}
    assert not reconcile(neighbour)
    load(registry, row.model_id)
    assert reconcile(registry).changes == (f"finished {row.model_id}",)
    assert versions(registry) == {1: "challenger"}


def test_one_machine_registers_or_repairs_at_a_time(
    registry: Registry, machine: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repair() -> str:
        with (
            pytest.raises(RegistryError) as refused,
            exclusive_registration(machine.store, timeout_s=0.0),
        ):
            raise AssertionError("two processes held the registration lease")
        return str(refused.value)

    acted = when(monkeypatch, "before _commit", repair)
    register(registry, candidate, Why(AT))
    assert "another registration, repair or backup has held the registration lease" in str(acted[0])
    assert not reconcile(machine)


def test_a_registration_that_stalled_past_its_lease_is_refused_at_its_commit(
    registry: Registry, machine: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtake() -> tuple[str, ...]:
        end_leases(registry)
        return reconcile(machine).changes

    with monkeypatch.context() as patch:
        acted = when(patch, "before _commit", overtake)
        with pytest.raises(LeaseLost):
            register(registry, candidate, Why(AT))
    assert acted == [
        (
            f"removed the uncommitted version 1 of {SERVICE.key}",
            "removed the uncommitted files of linear_BTC_20250101_000000",
            f"ended run register linear {SERVICE.symbol}, whose process died",
        )
    ]
    assert list_versions(registry.store) == ()
    row = register(registry, candidate, Why(AT))
    load(registry, row.model_id)


def test_a_machine_that_overtakes_after_the_commit_finishes_the_version(
    registry: Registry, machine: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtake() -> tuple[str, ...]:
        end_leases(registry)
        return reconcile(machine).changes

    acted = when(monkeypatch, "before _show_in_mlflow", overtake)
    row = register(registry, candidate, Why(AT))
    assert f"finished {row.model_id}" in acted[0]  # type: ignore[operator]
    assert load(registry, row.model_id).digest == row.digest
    assert (versions(registry), aliases(registry)) == ({1: "challenger"}, {"challenger": 1})


def test_who_cleans_and_has_lost_the_lease_removes_nothing(
    registry: Registry, machine: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration_module, "_show_in_mlflow", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(registration_module, "_commit", lambda *_: None)
        register(registry, candidate, Why(AT))
    with exclusive_registration(machine.store) as stalled:
        end_leases(registry)
        assert acquire_lease(registry.store, REGISTRATION, "next", seconds=60)
        with pytest.raises(LeaseLost):
            repairs.clear_leftovers(machine, stalled)
    assert versions(registry) == {1: "pending"}


def test_the_run_of_a_training_is_ended_once_nobody_holds_its_lease(
    registry: Registry, machine: Registry, neighbour: Registry
) -> None:
    client = registry.tracking.client

    def status(run_id: str) -> str:
        return str(client.get_run(run_id).info.status)

    with exclusive(registry.store, TRAINING, "one", timeout_s=1) as held:
        owner = owner_tags(registry.store, held)
        with open_run(registry.tracking, "train", owner=owner) as run:
            trial = run.log_child("trial", params={}, metrics={})
            client.update_run(trial, status="RUNNING")
            assert not reconcile(machine)
            assert not reconcile(neighbour)
            end_leases(registry)
            assert not reconcile(neighbour)
            assert set(reconcile(machine).changes) == {
                "ended run train, whose process died",
                "ended run trial, whose process died",
            }
            assert (status(run.run_id), status(trial)) == ("KILLED", "KILLED")
    assert status(run.run_id) == "FINISHED"


def test_the_run_of_a_past_term_is_ended_though_the_next_training_holds_the_lease(
    registry: Registry,
) -> None:
    client, experiment = registry.tracking.client, registry.tracking.experiment_id
    with exclusive(registry.store, TRAINING, "one", timeout_s=1) as held:
        dead = client.create_run(experiment, tags=owner_tags(registry.store, held))
    with exclusive(registry.store, TRAINING, "two", timeout_s=1) as held:
        alive = client.create_run(experiment, tags=owner_tags(registry.store, held))
        assert len(reconcile(registry).changes) == 1
    assert client.get_run(dead.info.run_id).info.status == "KILLED"
    assert client.get_run(alive.info.run_id).info.status == "RUNNING"


def test_a_run_of_somebody_else_in_the_same_experiment_is_left_alone(registry: Registry) -> None:
    run = registry.tracking.client.create_run(registry.tracking.experiment_id)
    assert not reconcile(registry)
    assert registry.tracking.client.get_run(run.info.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(("grace_s", "left"), [(3600.0, 1), (-1.0, 0)])
def test_a_draft_of_an_earlier_release_is_removed_after_an_hour(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, grace_s: float, left: int
) -> None:
    client = registry.tracking.client
    client.create_registered_model(SERVICE.key)
    tags = {"status": "pending", "mlops.host": socket.gethostname()}
    client.create_model_version(SERVICE.key, source="file:///elsewhere", tags=tags)
    monkeypatch.setattr(repairs, "UNTAGGED_GRACE_S", grace_s)
    reconcile(registry)
    assert len(versions(registry)) == left


def test_two_installations_share_the_numbers_of_a_service_and_not_its_aliases(
    registry: Registry, neighbour: Registry, candidate: Candidate
) -> None:
    first, second = (register(each, candidate, Why(AT)) for each in (registry, neighbour))
    assert first.model_id == second.model_id
    assert (first.mlflow_version, second.mlflow_version) == (1, 2)
    own = f"challenger-{installation_id(neighbour.store)[:8]}"
    assert aliases(registry) == {"challenger": 1, own: 2}
    with registry.store.write() as connection:
        change_status(connection, first.model_id, Status.REFUSED, Why(AT))
    assert reconcile(registry)
    assert not reconcile(neighbour)
    assert aliases(registry) == {own: 2}
    assert versions(registry) == {1: "refused", 2: "challenger"}


@pytest.mark.parametrize("own", [True, False])
def test_a_registered_model_of_an_earlier_release_belongs_to_whom_its_aliases_name(
    registry: Registry, neighbour: Registry, candidate: Candidate, own: bool
) -> None:
    client = registry.tracking.client
    register(registry, candidate, Why(AT))
    client.delete_registered_model_tag(SERVICE.key, INSTALLATION_TAG)
    client.delete_model_version_tag(SERVICE.key, "1", INSTALLATION_TAG)
    if own:
        reconcile(registry)
        shown = client.get_model_version(SERVICE.key, "1").tags[INSTALLATION_TAG]
        assert shown == installation_id(registry.store)
    register(neighbour, candidate, Why(AT))
    assert aliases(registry)["challenger"] == 1
    assert not reconcile(registry) or not own
    assert client.get_registered_model(SERVICE.key).tags[INSTALLATION_TAG] == installation_id(
        registry.store
    )


def test_versions_that_a_restored_store_does_not_know_are_named_and_tagged_failed(
    registry: Registry, neighbour: Registry, candidate: Candidate
) -> None:
    kept, lost = (register(registry, candidate, Why(AT)) for _ in range(2))
    register(neighbour, candidate, Why(AT))
    with registry.store.write() as connection:
        connection.execute(version.delete().where(version.c.model_id == lost.model_id))
    assert find_unknown_versions(registry) == (lost.model_id,)
    changes = reconcile(registry).changes
    assert [change for change in changes if lost.model_id in change and "restore" in change]
    assert versions(registry) == {1: "challenger", 2: "failed", 3: "challenger"}
    logged = registry.tracking.client.search_logged_models([registry.tracking.experiment_id])
    assert sorted(one.tags["status"] for one in logged) == ["challenger", "challenger", "failed"]
    assert find_unknown_versions(registry) == find_unknown_versions(neighbour) == ()
    assert not reconcile(registry)
    assert aliases(registry)["challenger"] == kept.mlflow_version


def test_nothing_is_removed_while_the_store_is_away(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(_: object) -> None:
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(registration_module, "_commit", lambda *_: None)
        patch.setattr(registration_module, "_show_in_mlflow", lambda *_: None)
        register(registry, candidate, Why(AT))
    with exclusive_registration(registry.store) as held, monkeypatch.context() as patch:
        patch.setattr(type(registry.store), "_check_file", is_away)
        with pytest.raises(StoreError, match="is away"):
            repairs.clear_leftovers(registry, held)
    assert versions(registry) == {1: "pending"}
