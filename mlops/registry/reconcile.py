"""Repairs files and MLflow where they differ from the store after a crash or a change by hand.

Drafts in MLflow are finished where the store has their row, else removed; staged files are removed;
runs whose process died end as KILLED; aliases and tags are put back; versions that the store does
not know are tagged failed. What is another installation's, or may still be at work, is left alone.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.paths import path_of
from mlops.registry.connection import Registry
from mlops.registry.mirror import (
    MODEL_ID_TAG,
    PENDING,
    SERVICE_TAG,
    STATUS_TAG,
    mirror,
    search_versions,
    show_status,
)
from mlops.registry.ownership import (
    INSTALLATION_TAG,
    Owner,
    exclusive_registration,
    installation_id,
    read_owner,
)
from mlops.registry.tracking import as_registry_errors
from mlops.store import Status, list_versions
from mlops.store.leases import Lease
from mlops.store.versions import known_ids

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

log = logging.getLogger(__name__)

UNTAGGED_GRACE_S = 3600
"""A draft that names no installation is of an earlier release, and abandoned after so long."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One sentence for each repair; false where nothing was to repair."""

    changes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


def reconcile(registry: Registry) -> Reconciled:
    """Bring files and MLflow in line with the store; a second call changes nothing.

    Raises:
        RegistryError: when a registration holds its lease for too long, or MLflow does not answer.
        LeaseLost: when this process stalled for longer than its lease lasts.
    """
    with exclusive_registration(registry.store) as lease:
        changes = [*clear_leftovers(registry, lease), *_end_dead_runs(registry, lease)]
        for service in sorted({row.service for row in list_versions(registry.store)}):
            changes += mirror(registry.store, registry.tracking, service)
        changes += _fail_unknown_versions(registry)
    return Reconciled(tuple(changes))


def clear_leftovers(registry: Registry, lease: Lease) -> list[str]:
    """Remove what registrations of this installation began and did not commit.

    Args:
        lease: The registration lease, which the caller holds.

    Raises:
        RegistryError: when MLflow does not answer.
        LeaseLost: when the lease was lost; then nothing was removed.
    """
    with as_registry_errors(registry.tracking):
        changes = [*_clear_versions(registry, lease), *_clear_logged_models(registry, lease)]
    staging = registry.staging_of(installation_id(registry.store))
    if staging.exists():
        changes += [f"removed staged {path.name}" for path in staging.iterdir()]
        shutil.rmtree(staging)
    for change in changes:
        log.info("%s", change)
    return changes


def _clear_versions(registry: Registry, lease: Lease) -> list[str]:
    client = registry.tracking.client
    pending = search_versions(registry.tracking, f"tag.`{STATUS_TAG}` = '{PENDING}'")
    owner = read_owner(registry.store, lease)
    changes = []
    for version in pending:
        if not _is_abandoned(owner, version.tags, version.creation_timestamp):
            continue
        service, number = version.name, version.version
        model_id = version.tags.get(MODEL_ID_TAG, "")
        rows = list_versions(registry.store, service=service)
        # Numbers begin anew where the registered model was deleted.
        if (model_id, int(number)) in {(row.model_id, row.mlflow_version) for row in rows}:
            mirror(registry.store, registry.tracking, service)
            changes.append(f"finished {model_id}")
        else:
            client.delete_model_version(service, str(number))
            changes.append(f"removed the uncommitted version {number} of {service}")
    return changes


def _clear_logged_models(registry: Registry, lease: Lease) -> list[str]:
    client = registry.tracking.client
    pending = _list_pending_models(registry)
    owner = read_owner(registry.store, lease)
    changes = []
    for logged in pending:
        if not _is_abandoned(owner, logged.tags, logged.creation_timestamp):
            continue
        service, location = logged.tags.get(SERVICE_TAG, ""), str(logged.artifact_location)
        committed = {row.model_id: row for row in list_versions(registry.store, service=service)}
        row = committed.get(logged.tags.get(MODEL_ID_TAG, ""))
        if row is not None and row.bundle_uri.startswith(f"{location}/"):
            client.set_logged_model_tags(logged.model_id, {STATUS_TAG: str(row.status)})
            continue
        client.delete_logged_model(logged.model_id)
        if registry.bundles.reads_in_place(location):
            # MLflow only marks a logged model as deleted; its files would stay for ever.
            shutil.rmtree(path_of(location).parent, ignore_errors=True)
        changes.append(f"removed the uncommitted files of {logged.name}")
    return changes


def _list_pending_models(registry: Registry) -> list[LoggedModel]:
    found: list[LoggedModel] = []
    token: str | None = None
    while True:
        page = registry.tracking.client.search_logged_models(
            [registry.tracking.experiment_id],
            filter_string=f"tags.{STATUS_TAG} = '{PENDING}'",
            page_token=token,
        )
        found.extend(page)
        token = page.token
        if not token:
            return found


def _is_abandoned(owner: Owner, tags: Mapping[str, str], created_ms: int) -> bool:
    if INSTALLATION_TAG in tags:
        return owner.has_abandoned(tags)
    return time.time() - created_ms / 1000 > UNTAGGED_GRACE_S


def _end_dead_runs(registry: Registry, lease: Lease) -> list[str]:
    client, changes = registry.tracking.client, []
    own = f"tags.`{INSTALLATION_TAG}` = '{installation_id(registry.store)}'"
    with as_registry_errors(registry.tracking):
        running = client.search_runs(
            [registry.tracking.experiment_id],
            filter_string=f"attributes.status = 'RUNNING' AND {own}",
        )
        owner = read_owner(registry.store, lease)
        for run in running:
            if owner.has_abandoned(run.data.tags):
                client.set_terminated(run.info.run_id, "KILLED")
                changes.append(f"ended run {run.info.run_name}, whose process died")
    return changes


def find_unknown_versions(registry: Registry) -> tuple[str, ...]:
    """The model_ids of this installation that MLflow shows and the store does not know.

    They were registered after the copy was made that the store was restored from. Those that
    `reconcile` has tagged failed are left out.

    Raises:
        RegistryError: when MLflow does not answer.
    """
    with as_registry_errors(registry.tracking):
        return tuple(version.tags[MODEL_ID_TAG] for version in _search_unknown_versions(registry))


def _search_unknown_versions(registry: Registry) -> list[MlflowVersion]:
    own = f"tag.`{INSTALLATION_TAG}` = '{installation_id(registry.store)}'"
    shown = search_versions(registry.tracking, own)
    # Read after MLflow: a version that is shown as more than a draft was committed before.
    known = known_ids(registry.store)
    return [
        version
        for version in shown
        if version.tags[MODEL_ID_TAG] not in known
        and version.tags.get(STATUS_TAG) not in (PENDING, Status.FAILED)
    ]


def _fail_unknown_versions(registry: Registry) -> list[str]:
    changes = []
    with as_registry_errors(registry.tracking):
        for version in _search_unknown_versions(registry):
            show_status(registry.tracking, version, Status.FAILED)
            changes.append(
                f"tagged {version.tags[MODEL_ID_TAG]} (version {version.version} of "
                f"{version.name}) failed in MLflow: the store does not know it, as after a restore"
            )
    for change in changes:
        log.warning("%s", change)
    return changes
