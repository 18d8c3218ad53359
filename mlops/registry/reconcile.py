"""Repairs what a crash or a hand left different from the store.

Pending MLflow versions are finished where the store has their row and removed where it has
not; staged files go; runs whose process died end as KILLED; aliases and tags are put back.
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
"""A pending version of another host may be in the making; after this it is abandoned."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was repaired, in words."""

    changes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


def reconcile(registry: Registry) -> Reconciled:
    """Bring files and MLflow in line with the store; changes nothing the second time.

    Raises:
        RegistryError: when a registration is going on for too long to wait.
    """
    with registry.lock():
        changes = [*clear_leftovers(registry), *_end_dead_runs(registry)]
        for service in sorted({row.service for row in list_versions(registry.store)}):
            changes += mirror(registry.store, registry.tracking, service)
    return Reconciled(tuple(changes))


def clear_leftovers(registry: Registry) -> list[str]:
    """Remove what registrations began and never committed; the caller holds the lock."""
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
    for found in client.search_model_versions(f"tag.`{STATUS_TAG}` = '{PENDING}'"):
        model_id = found.tags.get(MODEL_ID_TAG, "")
        if _in_the_making(found.tags, found.creation_timestamp):
            continue
        rows = list_versions(registry.store, service=found.name)
        if any(row.mlflow_version == int(found.version) for row in rows):
            mirror(registry.store, registry.tracking, found.name)
            changes.append(f"finished {model_id}")
        else:
            client.delete_model_version(found.name, str(found.version))
            changes.append(f"removed the uncommitted version {found.version} of {found.name}")
    return changes


def _clear_logged_models(registry: Registry) -> list[str]:
    client = registry.tracking.client
    pending = client.search_logged_models(
        [registry.tracking.experiment_id], filter_string=f"tags.{STATUS_TAG} = '{PENDING}'"
    )
    changes = []
    for found in pending:
        if _in_the_making(found.tags, found.creation_timestamp):
            continue
        service = found.tags.get(SERVICE_TAG, "")
        committed = {row.model_id: row for row in list_versions(registry.store, service=service)}
        row = committed.get(found.tags.get(MODEL_ID_TAG, ""))
        if row is not None and row.bundle_uri.startswith(f"{found.artifact_location}/"):
            client.set_logged_model_tags(found.model_id, {STATUS_TAG: str(row.status)})
            continue
        client.delete_logged_model(found.model_id)
        _remove_files(str(found.artifact_location))
        changes.append(f"removed the uncommitted files of {found.name}")
    return changes


def _remove_files(location: str) -> None:
    parsed = urlparse(location)
    if parsed.scheme == "file":
        # MLflow only marks a logged model as deleted; its bytes would stay for ever.
        shutil.rmtree(Path(url2pathname(parsed.path)).parent, ignore_errors=True)


def _in_the_making(tags: Mapping[str, str], created_ms: int) -> bool:
    """Whether another host may be at work on it; on this host the lock says that none is."""
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
        if not _alive(run.data.tags.get(PID_TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")
            changes.append(f"ended run {run.info.run_name}, whose process died")
    return changes


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
