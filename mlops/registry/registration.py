"""Makes a version exist, in an order in which a crash anywhere leaves no half version.

    bundle written -> MLflow version, tagged pending -> verified in a clean process
        -> store row = commit -> tags and aliases mirrored

Before the commit nothing that reads the store or an alias sees the version, and the next
registration (or `reconcile`) removes what is left; after it, they finish what is missing.

[[A version as MLflow holds it before the commit: logged, numbered, and tagged pending.]]
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

from mlops.code_version import DISTRIBUTION, release
from mlops.errors import MlopsError, RegistryError
from mlops.models.manifest import MAX_BYTES
from mlops.registry import reconcile
from mlops.registry.bundles import BundleParts, verify_bundle, write_bundle
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
from mlops.registry.tracking import HOST_TAG, Tracking, open_run
from mlops.service import Service, new_model_id
from mlops.store import (
    Claim,
    HeldLease,
    ModelVersion,
    Status,
    Why,
    begin_route,
    get_route,
    get_version,
    insert_version,
    known_ids,
    require_held,
)
from mlops.training.retraining import answer_with

LOADER = "mlops.models.bundle"


@dataclass(frozen=True, slots=True)
class Draft:
    """A bundle that was written and is to become a version of a service."""

    service: str
    model_id: str
    run_id: str
    staged: Path
    digest: str

    @property
    def tags(self) -> dict[str, str]:
        return {
            MODEL_ID_TAG: self.model_id,
            SERVICE_TAG: self.service,
            DIGEST_TAG: self.digest,
            HOST_TAG: socket.gethostname(),
            STATUS_TAG: PENDING,
        }


@dataclass(frozen=True, slots=True)
class Logged:
    """A draft whose files MLflow keeps."""

    draft: Draft
    logged_model_id: str
    model_uri: str
    bundle_uri: str


def log_model(tracking: Tracking, draft: Draft) -> Logged:
    """Hand the bundle to MLflow; the logged model names our loader and ships no code."""
    import mlflow

    before = tracking.client.get_run(draft.run_id).info.status
    with mlflow.start_run(run_id=draft.run_id, nested=True):
        info = mlflow.pyfunc.log_model(
            name=draft.model_id,
            loader_module=LOADER,
            data_path=str(draft.staged),
            pip_requirements=[f"{DISTRIBUTION}=={release()}"],
            tags=draft.tags,
        )
    if before == "RUNNING":
        # Leaving the block ended the run, which may be a training that goes on.
        tracking.client.update_run(draft.run_id, status=before)
    logged = tracking.client.get_logged_model(info.model_id)
    return Logged(
        draft=draft,
        logged_model_id=str(info.model_id),
        model_uri=str(info.model_uri),
        bundle_uri=f"{logged.artifact_location}/data/{BUNDLE_FOLDER}",
    )


def create_version(tracking: Tracking, logged: Logged) -> int:
    """Number the logged model within its service's registered model, made where missing."""
    from mlflow.exceptions import MlflowException

    client, draft = tracking.client, logged.draft
    try:
        client.get_registered_model(draft.service)
    except MlflowException:
        client.create_registered_model(draft.service, tags={SERVICE_TAG: draft.service})
    created = client.create_model_version(
        draft.service,
        source=logged.model_uri,
        run_id=draft.run_id,
        tags=draft.tags | {LOGGED_TAG: logged.logged_model_id},
        model_id=logged.logged_model_id,
    )
    return int(created.version)


log = logging.getLogger(__name__)

_DISK_FACTOR = 3  # staged, logged, and room to work


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is about to be registered.

    ``report`` is the gates' verdict as a dict, ``run_id`` the MLflow run that trained it (None
    opens one), ``notes`` what the caller wants remembered. ``begins_service`` makes it the
    baseline and first champion of its service; ``answers`` are the triggers it was trained for,
    ``turn`` is the turn of its training.
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
    answers: Claim | None = None
    turn: HeldLease | None = None


def register(registry: Registry, candidate: Candidate, why: Why) -> ModelVersion:
    """Register a candidate; when this returns, the version is loadable and listed.

    Raises:
        RegistryError: when it is too large, the disk is full, or MLflow fails.
        BundleError: when a clean process cannot load it or gets other forecasts.
        StoreError: when another training may be at the triggers it answers, or at its service.
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
    draft = Draft(candidate.service.key, model_id, run_id, staged, digest)
    logged = log_model(registry.tracking, draft)
    number = create_version(registry.tracking, logged)
    _verify(registry, logged)
    row = _row(candidate, logged, number, why.at)
    _commit(registry, candidate, row, why)
    shutil.rmtree(staged.parent)
    return row


def _write(registry: Registry, candidate: Candidate, staged: Path) -> str:
    assert registry.trust.key is not None
    return write_bundle(candidate.parts, staged, registry.trust.key)


def _verify(registry: Registry, logged: Logged) -> None:
    verified = verify_bundle(
        fetch(logged.bundle_uri, logged.draft.digest, registry),
        key_file=registry.key_file,
        modules=registry.trust.modules,
        allow_signed_pickle=registry.trust.allow_signed_pickle,
    )
    if verified != logged.draft.digest:
        raise RegistryError(
            f"MLflow stored {logged.draft.model_id} with digest {verified[:12]} instead of "
            f"{logged.draft.digest[:12]}; check the artifact store, then register again"
        )


def _commit(registry: Registry, candidate: Candidate, row: ModelVersion, why: Why) -> None:
    with registry.store.write() as connection:
        if candidate.turn is not None:
            require_held(connection, candidate.turn)
        insert_version(connection, row, why)
        if candidate.begins_service:
            begin_route(connection, row.service, row.model_id, why)
        if candidate.answers is not None:
            answer_with(connection, candidate.answers, row, at=why.at)


def _publish(registry: Registry, row: ModelVersion) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mirror(registry.store, registry.tracking, row.service)
    except MlflowException as error:
        # The version exists; showing it in MLflow is repeated by the next reconcile.
        log.warning(
            "model_id=%s is registered but MLflow does not show it yet: %s",
            row.model_id,
            error,
            extra={"service": row.service, "model_id": row.model_id},
        )
    log.info(
        "registered model_id=%s service=%s status=%s digest=%s",
        row.model_id,
        row.service,
        row.status,
        row.digest[:12],
        extra={"service": row.service, "model_id": row.model_id},
    )


def _row(candidate: Candidate, logged: Logged, number: int, at: datetime) -> ModelVersion:
    config = candidate.parts.config
    return ModelVersion(
        model_id=logged.draft.model_id,
        service=candidate.service.key,
        mlflow_version=number,
        run_id=logged.draft.run_id,
        model_type=candidate.model_type,
        symbol=candidate.service.symbol,
        status=candidate.status,
        digest=logged.draft.digest,
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
