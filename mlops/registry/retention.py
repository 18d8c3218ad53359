"""Removes the bundles of versions that nothing uses any more; rows, verdicts and cards stay."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from mlops.registry.connection import Registry
from mlops.registry.fetching import is_local
from mlops.registry.ownership import exclusive_registration
from mlops.store import ModelVersion, Status, Why
from mlops.store.retention import list_marked_bundles, mark_old_bundles, record_removed_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


def remove_old_bundles(registry: Registry, *, days: float, limit: int) -> int:
    """Remove bundles of refused, retired and failed versions from MLflow's artifacts.

    Bundles of champions, previous champions, baselines and challengers are kept, and those of
    versions that an open rollout or a watch names. The run of a refused training is deleted in
    MLflow; ``mlflow gc`` then frees its rows.

    A ``file:`` bundle that lies outside this machine's folders is left to the machine that has it.
    So a copy of a store does not remove the bundles of the original.

    A version is marked first, so a process that dies leaves no rollout of a version without files,
    and the next call removes what this one has not.

    Args:
        registry: The open registry.
        days: Days that a bundle is kept after the version's last change.
        limit: Most bundles to remove.

    Returns:
        How many were removed.

    Raises:
        RegistryError: when a registration, repair or backup holds its lease for too long.
        LeaseLost: when this process stalled for longer than its lease lasts.
    """
    now = datetime.now(UTC)
    why = Why(now, reason=f"unused for {days:g} days")
    store, before, own = registry.store, now - timedelta(days=days), partial(_may_remove, registry)
    removed = 0
    with exclusive_registration(store) as lease:
        mark_old_bundles(store, lease, before=before, limit=limit, at=now)
        for version in list_marked_bundles(store, limit=limit, where=own):
            if _remove_from_mlflow(registry, version):
                record_removed_bundle(store, version, why)
                removed += 1
    return removed


def _may_remove(registry: Registry, version: ModelVersion) -> bool:
    uri = version.bundle_uri
    return not is_local(uri) or registry.bundles.reads_in_place(uri)


def _remove_from_mlflow(registry: Registry, version: ModelVersion) -> bool:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        artifacts = get_artifact_repository(version.bundle_uri)
        artifacts.delete_artifacts()  # type: ignore[no-untyped-call]
        if version.status is Status.REFUSED:
            _delete_run(registry, version.run_id)
    except (MlflowException, OSError) as error:
        # The next call tries again.
        log.warning(
            "the bundle of %s was not removed: %s",
            version.model_id,
            error,
            extra={"service": version.service, "model_id": version.model_id},
        )
        return False
    return True


def _delete_run(registry: Registry, run_id: str) -> None:
    """Delete a training's run and the runs of its trials."""
    client = registry.tracking.client
    trials = client.search_runs(
        [registry.tracking.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{run_id}'"
    )
    for run in (*(trial.info.run_id for trial in trials), run_id):
        _delete_if_there(client, run)


def _delete_if_there(client: MlflowClient, run_id: str) -> None:
    """Delete a run, which `mlflow gc` may have removed for good."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        client.delete_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
