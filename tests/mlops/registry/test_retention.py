"""Bundles of versions that nothing uses go when they are old; the rows stay."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import pytest

from mlops.errors import BundleError, RegistryError
from mlops.registry import Candidate, Registry, load, register
from mlops.registry.ownership import exclusive_registration
from mlops.registry.reconcile import reconcile
from mlops.registry.retention import remove_old_bundles
from mlops.store import ModelVersion, Status, Why, get_version, list_audit_entries
from mlops.store.schema import version

from .conftest import AT

TODAY = Why(datetime.now(UTC))


def make(registry: Registry, candidate: Candidate, status: Status, why: Why) -> ModelVersion:
    return register(registry, replace(candidate, status=status), why)


def files_of(row: ModelVersion) -> Path:
    return Path(urlparse(row.bundle_uri).path)


def run_stage(registry: Registry, row: ModelVersion) -> str:
    return str(registry.tracking.client.get_run(row.run_id).info.lifecycle_stage)


def test_an_old_refused_version_keeps_its_row_and_loses_bundle_and_run(
    registry: Registry, candidate: Candidate
) -> None:
    old = make(registry, candidate, Status.REFUSED, Why(AT))
    new = make(registry, candidate, Status.REFUSED, TODAY)
    baseline = register(registry, replace(candidate, begins_service=True), Why(AT))
    assert remove_old_bundles(registry, days=90, limit=10) == 1
    assert [files_of(row).exists() for row in (old, new, baseline)] == [False, True, True]
    assert run_stage(registry, old) == "deleted"
    assert run_stage(registry, new) == "active"
    assert get_version(registry.store, old.model_id).status is Status.REFUSED
    with pytest.raises(BundleError, match="BUNDLE_DAYS after the version's last change"):
        load(registry, old.model_id)
    assert load(registry, new.model_id).digest == new.digest
    entry = list_audit_entries(registry.store, subject=old.model_id)[-1]
    assert (entry.action, entry.reason) == ("remove_bundle", "unused for 90 days")
    assert remove_old_bundles(registry, days=90, limit=10) == 0
    assert not reconcile(registry)


def test_a_file_of_another_machine_is_passed_over_and_left_unrecorded(
    registry: Registry, candidate: Candidate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    foreign = make(registry, candidate, Status.RETIRED, Why(AT))
    own = make(registry, candidate, Status.RETIRED, Why(AT + timedelta(days=1)))
    elsewhere = shutil.copytree(files_of(foreign), tmp_path_factory.mktemp("other") / "bundle")
    with registry.store.write() as connection:
        moved = version.update().where(version.c.model_id == foreign.model_id)
        connection.execute(moved.values(bundle_uri=elsewhere.as_uri()))
    assert [remove_old_bundles(registry, days=90, limit=1) for _ in range(3)] == [0, 1, 0]
    assert elsewhere.exists()
    assert not files_of(own).exists()
    entries = list_audit_entries(registry.store, subject=foreign.model_id)
    assert "remove_bundle" not in {entry.action for entry in entries}


def test_nothing_is_marked_or_removed_while_a_backup_holds_the_lease(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(registry, candidate, Status.RETIRED, Why(AT))
    at_once = partial(exclusive_registration, timeout_s=0.0)
    monkeypatch.setattr("mlops.registry.retention.exclusive_registration", at_once)
    with (
        exclusive_registration(registry.store),
        pytest.raises(RegistryError, match="repair or backup"),
    ):
        remove_old_bundles(registry, days=90, limit=10)
    assert get_version(registry.store, old.model_id).bundle_removed_at is None
    assert files_of(old).exists()


def test_the_run_of_a_retired_version_stays(registry: Registry, candidate: Candidate) -> None:
    old = make(registry, candidate, Status.RETIRED, Why(AT))
    assert remove_old_bundles(registry, days=90, limit=10) == 1
    assert run_stage(registry, old) == "active"


def test_a_run_that_mlflow_has_removed_for_good_stops_nothing(
    registry: Registry, candidate: Candidate
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    old = make(registry, candidate, Status.REFUSED, Why(AT))
    tracking = SqlAlchemyStore(registry.tracking.uri, registry.home.as_uri())
    tracking.delete_run(old.run_id)
    tracking._hard_delete_run(old.run_id)
    assert remove_old_bundles(registry, days=90, limit=1) == 1
    assert not files_of(old).exists()


def test_a_bundle_that_could_not_be_removed_is_removed_by_the_next_call(
    registry: Registry, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(registry, candidate, Status.FAILED, Why(AT))

    def refuse(*_: object) -> None:
        raise OSError("the share is away")

    with monkeypatch.context() as patch:
        patch.setattr(
            "mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository.delete_artifacts",
            refuse,
        )
        assert remove_old_bundles(registry, days=90, limit=10) == 0
    assert files_of(old).exists()
    with pytest.raises(BundleError, match="was removed on"):
        load(registry, old.model_id)
    assert remove_old_bundles(registry, days=90, limit=10) == 1
    assert not files_of(old).exists()
