"""Repairs files and MLflow where they differ from the store after a crash or a change by hand.

Pending MLflow versions are finished where the store has their row, else removed; staged files are
removed; runs whose process died end as KILLED; aliases and tags are put back.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlops.registry.connection import Registry
from mlops.registry.mirror import MODEL_ID_TAG, PENDING, SERVICE_TAG, STATUS_TAG, mirror
from mlops.registry.tracking import HOST_TAG, PID_TAG
from mlops.store import list_versions

log = logging.getLogger(__name__)

FOREIGN_GRACE_S = 3600
"""After so many seconds a pending version of another host counts as abandoned."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One sentence for each repair; false where nothing was to repair."""

    changes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


def reconcile(registry: Registry) -> Reconciled:
    """Bring files and MLflow in line with the store; a second call changes nothing.

    Raises:
        RegistryError: when a registration holds the lock for too long, or MLflow does not answer.
    """
    with registry.lock():
        changes = [*clear_leftovers(registry), *_end_dead_runs(registry)]
        for service in sorted({row.service for row in list_versions(registry.store)}):
            changes += mirror(registry.store, registry.tracking, service)
    return Reconciled(tuple(changes))


def clear_leftovers(registry: Registry) -> list[str]:
    """Remove what registrations began and did not commit; the caller holds the lock."""
    changes = [*_clear_versions(registry), *_clear_logged_models(registry)]
    if registry.staging.exists():
        changes += [f"removed staged {path.name}" for path in registry.staging.iterdir()]
        shutil.rmtree(registry.staging)
    for change in changes:
        log.info("%s", change)
    return changes


def _clear_versions(registry: Registry) -> list[str]:
    client = registry.tracking.client
    changes = []
    for version in client.search_model_versions(f"tag.`{STATUS_TAG}` = '{PENDING}'"):
        if _may_be_registering(version.tags, version.creation_timestamp):
            continue
        service, number = version.name, version.version
        rows = list_versions(registry.store, service=service)
        if any(row.mlflow_version == int(number) for row in rows):
            mirror(registry.store, registry.tracking, service)
            changes.append(f"finished {version.tags.get(MODEL_ID_TAG, '')}")
        else:
            client.delete_model_version(service, str(number))
            changes.append(f"removed the uncommitted version {number} of {service}")
    return changes


def _clear_logged_models(registry: Registry) -> list[str]:
    client = registry.tracking.client
    pending = client.search_logged_models(
        [registry.tracking.experiment_id], filter_string=f"tags.{STATUS_TAG} = '{PENDING}'"
    )
    changes = []
    for logged in pending:
        if _may_be_registering(logged.tags, logged.creation_timestamp):
            continue
        service, location = logged.tags.get(SERVICE_TAG, ""), str(logged.artifact_location)
        committed = {row.model_id: row for row in list_versions(registry.store, service=service)}
        row = committed.get(logged.tags.get(MODEL_ID_TAG, ""))
        if row is not None and row.bundle_uri.startswith(f"{location}/"):
            client.set_logged_model_tags(logged.model_id, {STATUS_TAG: str(row.status)})
            continue
        client.delete_logged_model(logged.model_id)
        if urlparse(location).scheme == "file":
            # MLflow only marks a logged model as deleted; its files would stay for ever.
            files = Path(url2pathname(urlparse(location).path)).parent
            shutil.rmtree(files, ignore_errors=True)
        changes.append(f"removed the uncommitted files of {logged.name}")
    return changes


def _may_be_registering(tags: Mapping[str, str], created_ms: int) -> bool:
    """Whether another host may still register it; on this host the lock excludes that."""
    if tags.get(HOST_TAG) == socket.gethostname():
        return False
    return time.time() - created_ms / 1000 < FOREIGN_GRACE_S


def _end_dead_runs(registry: Registry) -> list[str]:
    client, host = registry.tracking.client, socket.gethostname()
    running = client.search_runs(
        [registry.tracking.experiment_id],
        filter_string=f"attributes.status = 'RUNNING' AND tags.`{HOST_TAG}` = '{host}'",
    )
    changes = []
    for run in running:
        if not _is_alive(run.data.tags.get(PID_TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")
            changes.append(f"ended run {run.info.run_name}, whose process died")
    return changes


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
