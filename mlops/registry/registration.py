"""Makes a version exist, in an order in which a crash anywhere leaves no half version.

    bundle written -> MLflow version, tagged pending -> verified in a clean process
        -> store row = commit -> tags and aliases mirrored

Before the commit nothing that reads the store or an alias sees the version, and the next
registration (or `reconcile`) removes what is left; after it, they finish what is missing.
"""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mlops.errors import MlopsError, RegistryError
from mlops.models.manifest import MAX_BYTES
from mlops.registry import reconcile
from mlops.registry.bundles import BundleParts, verify_bundle, write_bundle
from mlops.registry.code import DISTRIBUTION, release
from mlops.registry.connection import BUNDLE_FOLDER, Registry, fetch
from mlops.registry.mirror import (
    DIGEST_TAG,
    LOGGED_TAG,
    MODEL_ID_TAG,
    PENDING,
    SERVICE_TAG,
    STATUS_TAG,
    mirror,
)
from mlops.registry.tracking import HOST_TAG, open_run
from mlops.service import Service, new_model_id
from mlops.store import ModelVersion, Status, Why, get_route
from mlops.store.live import begin_route
from mlops.store.versions import get_version, insert_version, known_ids

log = logging.getLogger(__name__)

_DISK_FACTOR = 3  # staged, logged, and room to work


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is about to be registered.

    ``report`` is the gates' verdict as a dict, ``run_id`` the MLflow run that trained it (None
    opens one), ``notes`` what the caller wants remembered. ``begins_service`` makes it the
    baseline and first champion of its service.
    """

    service: Service
    model_type: str
    parts: BundleParts
    status: Status
    recipe_digest: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    claims_only: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    begins_service: bool = False


@dataclass(frozen=True, slots=True)
class _Draft:
    model_id: str
    run_id: str
    staged: Path
    digest: str


@dataclass(frozen=True, slots=True)
class _Logged:
    model_id: str
    run_id: str
    digest: str
    logged_model_id: str
    model_uri: str
    bundle_uri: str


def register(registry: Registry, candidate: Candidate, why: Why) -> ModelVersion:
    """Register a candidate; when this returns, the version is loadable and listed.

    Raises:
        RegistryError: when it is too large, the disk is full, or MLflow fails.
        BundleError: when a clean process cannot load it or gets other forecasts.
    """
    _check_room(registry.home, candidate.parts.size)
    with registry.lock():
        reconcile.clear_leftovers(registry)
        if candidate.begins_service:
            route = get_route(registry.store, candidate.service.key)
            if route is not None:
                return get_version(registry.store, route.baseline)
        if candidate.run_id is not None:
            return _register_in_run(registry, candidate, candidate.run_id, why)
        name = f"register {candidate.model_type} {candidate.service.symbol}"
        with open_run(registry.tracking, name, tags={SERVICE_TAG: candidate.service.key}) as run:
            return _register_in_run(registry, candidate, run.run_id, why)


def _register_in_run(
    registry: Registry, candidate: Candidate, run_id: str, why: Why
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    taken = known_ids(registry.store)
    model_id = new_model_id(candidate.model_type, candidate.service.symbol, why.at, taken)
    try:
        row = _make(registry, candidate, model_id, run_id, why)
    except MlflowException as error:
        reconcile.clear_leftovers(registry)
        raise RegistryError(
            f"MLflow refused {model_id}: {error}; nothing was registered. "
            "Check MLFLOW_TRACKING_URI and its free space, then register again"
        ) from error
    except OSError as error:
        reconcile.clear_leftovers(registry)
        raise RegistryError(
            f"{model_id} could not be written ({error}); nothing was registered. "
            f"Check free disk space and permissions under {registry.home}"
        ) from error
    except MlopsError:
        reconcile.clear_leftovers(registry)
        raise
    _publish(registry, row)
    return row


def _make(
    registry: Registry, candidate: Candidate, model_id: str, run_id: str, why: Why
) -> ModelVersion:
    staged = registry.staging / model_id / BUNDLE_FOLDER
    digest = _write(registry, candidate, staged)
    logged = _log_model(registry, candidate, _Draft(model_id, run_id, staged, digest))
    number = _create_version(registry, candidate, logged)
    _verify(registry, logged)
    row = _row(candidate, logged, number, why.at)
    _commit(registry, candidate, row, why)
    shutil.rmtree(staged.parent)
    return row


def _write(registry: Registry, candidate: Candidate, staged: Path) -> str:
    assert registry.trust.key is not None
    return write_bundle(candidate.parts, staged, registry.trust.key)


def _log_model(registry: Registry, candidate: Candidate, draft: _Draft) -> _Logged:
    import mlflow

    client = registry.tracking.client
    before = client.get_run(draft.run_id).info.status
    with mlflow.start_run(run_id=draft.run_id, nested=True):
        info = mlflow.pyfunc.log_model(
            name=draft.model_id,
            loader_module="mlops.models.bundle",
            data_path=str(draft.staged),
            pip_requirements=[f"{DISTRIBUTION}=={release()}"],
            tags=_tags(candidate, draft.model_id, draft.digest) | {STATUS_TAG: PENDING},
        )
    if before == "RUNNING":
        # Leaving the block ended the run, which may be a training that goes on.
        client.update_run(draft.run_id, status=before)
    logged = client.get_logged_model(info.model_id)
    return _Logged(
        model_id=draft.model_id,
        run_id=draft.run_id,
        digest=draft.digest,
        logged_model_id=str(info.model_id),
        model_uri=str(info.model_uri),
        bundle_uri=f"{logged.artifact_location}/data/{BUNDLE_FOLDER}",
    )


def _create_version(registry: Registry, candidate: Candidate, logged: _Logged) -> int:
    from mlflow.exceptions import MlflowException

    client, name = registry.tracking.client, candidate.service.key
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, tags={SERVICE_TAG: name})
    tags = _tags(candidate, logged.model_id, logged.digest)
    created = client.create_model_version(
        name,
        source=logged.model_uri,
        run_id=logged.run_id,
        tags=tags | {STATUS_TAG: PENDING, LOGGED_TAG: logged.logged_model_id},
        model_id=logged.logged_model_id,
    )
    return int(created.version)


def _verify(registry: Registry, logged: _Logged) -> None:
    verified = verify_bundle(
        fetch(logged.bundle_uri, registry),
        key_file=registry.key_file,
        modules=registry.trust.modules,
        allow_signed_pickle=registry.trust.allow_signed_pickle,
    )
    if verified != logged.digest:
        raise RegistryError(
            f"MLflow stored {logged.model_id} with digest {verified[:12]} instead of "
            f"{logged.digest[:12]}; check the artifact store, then register again"
        )


def _commit(registry: Registry, candidate: Candidate, row: ModelVersion, why: Why) -> None:
    with registry.store.write() as connection:
        insert_version(connection, row, why)
        if candidate.begins_service:
            begin_route(connection, row.service, row.model_id, why)


def _publish(registry: Registry, row: ModelVersion) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mirror(registry.store, registry.tracking, row.service)
    except MlflowException as error:
        # The version exists; showing it in MLflow is repeated by the next reconcile.
        log.warning(
            "model_id=%s is registered but MLflow does not show it yet: %s", row.model_id, error
        )
    log.info(
        "registered model_id=%s service=%s status=%s digest=%s",
        row.model_id,
        row.service,
        row.status,
        row.digest[:12],
    )


def _row(candidate: Candidate, logged: _Logged, number: int, at: datetime) -> ModelVersion:
    config = candidate.parts.config
    return ModelVersion(
        model_id=logged.model_id,
        service=candidate.service.key,
        mlflow_version=number,
        run_id=logged.run_id,
        model_type=candidate.model_type,
        symbol=candidate.service.symbol,
        status=candidate.status,
        digest=logged.digest,
        bundle_uri=logged.bundle_uri,
        # Nobody knows what a claimed model was trained on; its bundle knows its examples only.
        watermark="" if candidate.claims_only else config["watermark"],
        trained_until=None
        if candidate.claims_only
        else datetime.fromisoformat(config["trained_until"]),
        recipe_digest=candidate.recipe_digest,
        claims_only=candidate.claims_only,
        code_version=config["code_version"],
        created_at=at,
        report=candidate.report,
        metrics=candidate.metrics,
        notes=candidate.notes,
    )


def _tags(candidate: Candidate, model_id: str, digest: str) -> dict[str, str]:
    return {
        MODEL_ID_TAG: model_id,
        SERVICE_TAG: candidate.service.key,
        DIGEST_TAG: digest,
        HOST_TAG: socket.gethostname(),
    }


def _check_room(home: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise RegistryError(
            f"the model is {size:,} bytes, at most {MAX_BYTES:,} are allowed; "
            "register a smaller model"
        )
    free = shutil.disk_usage(home).free
    if free < _DISK_FACTOR * size:
        raise RegistryError(
            f"registering needs {_DISK_FACTOR * size:,} bytes under {home}, {free:,} are free; "
            "free disk space or move MLOPS_BASE_PATH"
        )
