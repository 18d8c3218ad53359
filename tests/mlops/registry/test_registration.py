"""A registered version is loadable, listed, aliased; a failed one leaves nothing."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops.errors import BundleError, RegistryError
from mlops.features.dataset import Dataset
from mlops.registry import Candidate, Registry, ensure_service, open_run, reconcile, register
from mlops.registry.connection import load
from mlops.registry.ownership import exclusive_registration, owner_tags
from mlops.store import Status, Why, get_route, get_version, list_versions

from .conftest import AT, SERVICE, Populated


def aliases(registry: Registry) -> dict[str, int]:
    found = registry.tracking.client.get_registered_model(SERVICE.key).aliases
    return {alias: int(number) for alias, number in found.items()}


def nothing_is_left(registry: Registry) -> bool:
    client = registry.tracking.client
    logged = client.search_logged_models([registry.tracking.experiment_id])
    versions = client.search_model_versions(f"name = '{SERVICE.key}'")
    artifacts = list((registry.home / "mlruns" / "artifacts").rglob("manifest.json"))
    return not any([logged, versions, artifacts, *registry.staging.rglob("*")])


def test_a_service_begins_with_its_baseline_as_version_1_and_champion(
    populated: Populated,
) -> None:
    route = get_route(populated.registry.store, SERVICE.key)
    assert route is not None
    assert route.champion == route.baseline == populated.baseline
    version = get_version(populated.registry.store, populated.baseline)
    assert (version.model_type, version.status) == ("persistence", Status.DEPLOYED)
    assert aliases(populated.registry) == {"champion": 1, "baseline": 1, "challenger": 2}


def test_a_service_begins_only_once(populated: Populated, dataset: Dataset) -> None:
    route = ensure_service(populated.registry, SERVICE, dataset, Why(AT))
    assert route.baseline == populated.baseline
    assert len(list_versions(populated.registry.store)) == 3


@pytest.mark.usefixtures("unverified")
def test_two_that_begin_a_service_at_once_begin_it_once(
    registry: Registry, dataset: Dataset
) -> None:
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(ensure_service, registry, SERVICE, dataset, Why(AT)) for _ in "ab"]
        routes = [future.result() for future in begun]
    assert routes[0] == routes[1]
    assert len(list_versions(registry.store)) == 1


def test_the_id_people_see_is_the_name_and_a_tag_of_the_logged_model(populated: Populated) -> None:
    row = get_version(populated.registry.store, populated.challenger)
    client = populated.registry.tracking.client
    version = client.get_model_version(SERVICE.key, str(row.mlflow_version))
    logged = client.get_logged_model(version.tags["mlops.logged_model"])
    assert row.model_id == "linear_BTC_20250101_000000"
    assert logged.name == logged.tags["model_id"] == version.tags["model_id"] == row.model_id
    assert version.tags["status"] == logged.tags["status"] == "challenger"
    assert version.tags["digest"] == row.digest


def test_two_ids_of_one_second_differ(populated: Populated) -> None:
    assert populated.refused == f"{populated.challenger}_2"


def test_what_is_registered_loads_with_the_digest_of_its_row(populated: Populated) -> None:
    bundle = load(populated.registry, populated.challenger)
    row = get_version(populated.registry.store, populated.challenger)
    assert bundle.digest == row.digest
    assert bundle.config["watermark"] == row.watermark


def test_a_plain_notebook_forecasts_by_alias(populated: Populated, bars: pd.DataFrame) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model(f"models:/{SERVICE.key}@challenger")
    forecasts = model.predict(bars.tail(300))
    expected = load(populated.registry, populated.challenger).predict(bars.tail(300))
    pd.testing.assert_frame_equal(forecasts, expected)
    assert np.isfinite(forecasts["forecast"]).all()
    assert len(forecasts) > 100


def test_the_logged_model_ships_no_code(populated: Populated) -> None:
    row = get_version(populated.registry.store, populated.challenger)
    root = Path(row.bundle_uri.removeprefix("file://")).parents[1]
    suffixes = {path.suffix for path in root.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json", ".safetensors", ".txt", ".yaml"}


@pytest.mark.usefixtures("unverified")
def test_a_run_that_goes_on_training_is_not_ended_by_registration(
    registry: Registry, candidate: Candidate
) -> None:
    with open_run(registry.tracking, "train") as run:
        row = register(registry, replace(candidate, run_id=run.run_id), Why(AT))
        assert registry.tracking.client.get_run(run.run_id).info.status == "RUNNING"
    assert row.run_id == run.run_id
    assert registry.tracking.client.get_run(run.run_id).info.status == "FINISHED"


def test_a_model_that_a_clean_process_cannot_load_leaves_nothing(
    registry: Registry, candidate: Candidate
) -> None:
    first = candidate.parts.golden[0]
    parts = replace(candidate.parts, golden=(replace(first, expected=first.expected + 1),))
    with pytest.raises(BundleError, match="golden example 0"):
        register(registry, replace(candidate, parts=parts), Why(AT))
    assert list_versions(registry.store) == ()
    assert nothing_is_left(registry)


@pytest.mark.parametrize("step", ["log_model", "create_version", "_commit"])
@pytest.mark.usefixtures("unverified")
def test_a_disk_that_fills_up_leaves_nothing_and_is_named(
    registry: Registry, candidate: Candidate, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"mlops.registry.registration.{step}", fail)
    with pytest.raises(RegistryError, match=r"No space left on device.*free disk space"):
        register(registry, candidate, Why(AT))
    assert list_versions(registry.store) == ()
    assert nothing_is_left(registry)


def test_too_little_disk_space_is_said_before_anything_is_written(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(registry.home)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(RegistryError, match="1,000 are free; free disk space"):
        register(registry, candidate, Why(AT))
    assert nothing_is_left(registry)


def test_a_model_over_the_size_cap_is_refused(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.registry.registration.MAX_BYTES", 1000)
    with pytest.raises(RegistryError, match="at most 1,000 are allowed"):
        register(registry, candidate, Why(AT))


@pytest.mark.parametrize("broken", ["search_model_versions", "set_registered_model_alias"])
@pytest.mark.usefixtures("unverified")
def test_a_version_survives_mlflow_failing_after_the_commit(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    with monkeypatch.context() as patch:
        fail_after_the_commit(registry, patch, broken)
        row = register(registry, candidate, Why(AT))
    assert get_version(registry.store, row.model_id) == row
    assert reconcile(registry)
    assert aliases(registry) == {"challenger": 1}


def fail_after_the_commit(registry: Registry, patch: pytest.MonkeyPatch, call: str) -> None:
    """Let MLflow refuse a call once the store has a version."""
    from mlflow.exceptions import MlflowException

    client = type(registry.tracking.client)
    real = getattr(client, call)

    def refuse(*given: Any, **named: Any) -> Any:
        if list_versions(registry.store):
            raise MlflowException("gone")
        return real(*given, **named)

    patch.setattr(client, call, refuse)


@pytest.mark.usefixtures("unverified")
def test_a_run_that_mlflow_cannot_end_does_not_undo_a_commit(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_after_the_commit(registry, patch, "set_terminated")
        row = register(registry, candidate, Why(AT))
    assert get_version(registry.store, row.model_id) == row
    assert reconcile(registry).changes == (
        f"ended run register linear {SERVICE.symbol}, whose process died",
    )


@pytest.mark.usefixtures("unverified")
def test_mlflow_failing_before_the_commit_is_named_and_leaves_its_draft_to_the_next(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    def fail(*_: Any, **__: Any) -> None:
        raise MlflowException("gone")

    client = type(registry.tracking.client)
    with monkeypatch.context() as patch:
        patch.setattr(client, "create_model_version", fail)
        patch.setattr(client, "delete_logged_model", fail)
        with pytest.raises(RegistryError, match=r"MLflow refused linear_BTC.*nothing was"):
            register(registry, candidate, Why(AT))
    assert reconcile(registry).changes == (
        "removed the uncommitted files of linear_BTC_20250101_000000",
        "removed staged linear_BTC_20250101_000000",
    )
    assert nothing_is_left(registry)


@pytest.mark.usefixtures("unverified")
def test_what_was_deleted_in_mlflow_is_reported_and_the_next_service_repaired(
    registry: Registry, candidate: Candidate
) -> None:
    other = replace(candidate, service=replace(SERVICE, symbol="ETH/USD"))
    gone = register(registry, other, Why(AT))
    older, newer = (register(registry, candidate, Why(AT)) for _ in range(2))
    client = registry.tracking.client
    client.delete_registered_model(gone.service)
    client.delete_model_version(SERVICE.key, str(newer.mlflow_version))
    client.set_model_version_tag(SERVICE.key, str(older.mlflow_version), "status", "failed")
    assert set(reconcile(registry).changes) == {
        f"version {gone.model_id} is missing in MLflow; the store still serves it",
        f"version {newer.model_id} is missing in MLflow; the store still serves it",
        f"status of {older.model_id}: failed -> challenger",
    }
    assert aliases(registry) == {}


@pytest.mark.usefixtures("unverified")
def test_a_service_whose_registered_model_was_deleted_goes_on_with_the_next_number(
    registry: Registry, candidate: Candidate
) -> None:
    for _ in range(2):
        register(registry, candidate, Why(AT))
    registry.tracking.client.delete_registered_model(SERVICE.key)
    assert register(registry, candidate, Why(AT)).mlflow_version == 3
    assert aliases(registry) == {"challenger": 3}
    shown = registry.tracking.client.search_model_versions(f"name = '{SERVICE.key}'")
    assert [int(version.version) for version in shown] == [3]


@pytest.mark.usefixtures("unverified")
def test_a_draft_with_the_number_of_a_version_that_was_deleted_in_mlflow_is_removed(
    registry: Registry, candidate: Candidate
) -> None:
    row, client = register(registry, candidate, Why(AT)), registry.tracking.client
    client.delete_registered_model(SERVICE.key)
    with exclusive_registration(registry.store) as lease:
        tags = {"model_id": "draft", "status": "pending", **owner_tags(registry.store, lease)}
    client.create_registered_model(SERVICE.key)
    client.create_model_version(SERVICE.key, source=row.bundle_uri, tags=tags)
    assert f"removed the uncommitted version 1 of {SERVICE.key}" in reconcile(registry).changes


@pytest.mark.usefixtures("unverified")
def test_an_alias_moved_by_hand_is_put_back(registry: Registry, candidate: Candidate) -> None:
    register(registry, candidate, Why(AT))
    register(registry, replace(candidate, status=Status.REFUSED), Why(AT))
    client = registry.tracking.client
    client.set_registered_model_alias(SERVICE.key, "challenger", "2")
    client.set_registered_model_alias(SERVICE.key, "champion", "2")
    assert set(reconcile(registry).changes) == {
        "alias challenger: 2 -> 1",
        "alias champion: 2 -> none",
    }
    assert aliases(registry) == {"challenger": 1}
    assert not reconcile(registry)


def test_a_file_altered_in_the_artifact_store_is_noticed(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.registry.registration._verify", lambda *_: None)
    row = register(registry, candidate, Why(AT))
    config = Path(row.bundle_uri.removeprefix("file://")) / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(BundleError, match=r"config\.json.*was altered"):
        load(registry, row.model_id)
