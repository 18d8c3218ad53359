"""Makes a version exist, in an order in which a crash anywhere leaves no half version.

    bundle written -> MLflow version, tagged pending -> verified in a clean process
        -> store row = commit -> tags and aliases mirrored

Before the commit nothing that reads the store or an alias sees the version, and the next
registration (or `reconcile`) removes what is left; after the commit, the next one finishes what
is missing.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops.code_version import DISTRIBUTION, release
from mlops.errors import DiskFull, MlopsError, RegistryError, StoreError
from mlops.models.manifest import MAX_BYTES
from mlops.models.signing import SigningKey
from mlops.plain_values import plain_notes
from mlops.registry import reconcile
from mlops.registry.bundles import BundleParts, verify_bundle, write_bundle
from mlops.registry.connection import BUNDLE_FOLDER, Registry, fetch
from mlops.registry.keys import choose_signing_key, require_known_key
from mlops.registry.mirror import (
    DIGEST_TAG,
    LOGGED_TAG,
    MODEL_ID_TAG,
    PENDING,
    SERVICE_TAG,
    STATUS_TAG,
    mirror,
)
from mlops.registry.ownership import INSTALLATION_TAG, exclusive_registration, owner_tags
from mlops.registry.tracking import Tracking, open_run
from mlops.service import Service, new_model_id
from mlops.store import ModelVersion, Status, Why, get_route, get_version, list_versions
from mlops.store.engine import Connection
from mlops.store.leases import Lease, require_held
from mlops.store.requests import RequestKey
from mlops.store.routes import begin_route
from mlops.store.versions import insert_version, known_ids

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

log = logging.getLogger(__name__)

LOADER = "mlops.models.bundle"
_DISK_FACTOR = 3  # staged, logged, and room to work

Fence = Callable[[Connection], None]
"""Raises in the committing transaction to refuse the commit."""

CommitHook = Callable[[Connection, ModelVersion], None]
"""Writes more in the committing transaction, after the version's row."""


class _CommitHooks(NamedTuple):
    lease: Lease
    fence: Fence | None
    within: Sequence[CommitHook]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is about to be registered.

    Args:
        parts: What its bundle will hold.
        recipe_digest: Equal for forecasters that were fitted by the same recipe.
        report: The gates' verdict (`GateReport.to_dict`); None where no gate judged it.
        claims_only: Its metrics are the caller's; nobody measured them here.
        notes: Stored with the version beside its own columns, as `plain_notes` writes them.
        run_id: The MLflow run that trained it; None opens a run for the registration.
        begins_service: Make it the baseline and the first champion of its service.
        request: Names the request that registers it.
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
    request: RequestKey | None = None


def register(
    registry: Registry,
    candidate: Candidate,
    why: Why,
    *,
    fence: Fence | None = None,
    within: Sequence[CommitHook] = (),
) -> ModelVersion:
    """Register a candidate; when this returns, the version is loadable and listed.

    Args:
        fence: Called first in the committing transaction.
        within: Called last in the committing transaction, in this order.

    Raises:
        RegistryError: when it is too large, a note cannot be kept, the disk is full, or MLflow
            fails.
        BundleError: when a clean process cannot load it or gets other forecasts.
        StoreError: when the fence or a hook refuses the commit.
        LeaseLost: when this process stalled for so long that another one registers.
    """
    candidate = replace(
        candidate,
        notes=plain_notes(candidate.notes, "notes"),
        metrics=plain_notes(candidate.metrics, "metrics"),
    )
    check_size_and_disk(registry.home, candidate.parts.size)
    with exclusive_registration(registry.store) as lease:
        hooks = _CommitHooks(lease, fence, within)
        reconcile.clear_leftovers(registry, lease)
        if candidate.begins_service:
            route = get_route(registry.store, candidate.service.key)
            if route is not None:
                return get_version(registry.store, route.baseline)
        if candidate.run_id is not None:
            return _register_in_run(registry, candidate, why, hooks)
        with open_run(
            registry.tracking,
            f"register {candidate.model_type} {candidate.service.symbol}",
            tags={SERVICE_TAG: candidate.service.key},
            owner=owner_tags(registry.store, lease),
        ) as run:
            return _register_in_run(registry, replace(candidate, run_id=run.run_id), why, hooks)


def _register_in_run(
    registry: Registry, candidate: Candidate, why: Why, hooks: _CommitHooks
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    taken = known_ids(registry.store)
    model_id = new_model_id(candidate.model_type, candidate.service.symbol, why.at, taken)
    owner = owner_tags(registry.store, hooks.lease)
    try:
        row = _make_pending(registry, candidate, model_id, why.at, owner)
        _commit(registry, candidate, row, why, hooks)
    except MlflowException as error:
        _clear_draft(registry, hooks.lease)
        raise RegistryError(
            f"MLflow refused {model_id}: {error}; nothing was registered. "
            "Check MLFLOW_TRACKING_URI and its free space, then register again"
        ) from error
    except OSError as error:
        _clear_draft(registry, hooks.lease)
        raise RegistryError(
            f"{model_id} could not be written ({error}); nothing was registered. "
            f"Check free disk space and permissions under {registry.home}"
        ) from error
    except MlopsError:
        _clear_draft(registry, hooks.lease)
        raise
    shutil.rmtree(registry.staging_of(owner[INSTALLATION_TAG]), ignore_errors=True)
    _show_in_mlflow(registry, row)
    return row


def _clear_draft(registry: Registry, lease: Lease) -> None:
    """Remove what a failed registration made; where that fails too, the next one does it."""
    try:
        reconcile.clear_leftovers(registry, lease)
    except (MlopsError, OSError) as error:
        log.warning("what was begun is left for the next registration to remove: %s", error)


def _make_pending(
    registry: Registry,
    candidate: Candidate,
    model_id: str,
    at: datetime,
    owner: Mapping[str, str],
) -> ModelVersion:
    """Everything before the commit; returns the row to commit."""
    run_id = candidate.run_id
    assert run_id is not None
    staged = registry.staging_of(owner[INSTALLATION_TAG]) / model_id / BUNDLE_FOLDER
    digest = _write(registry, candidate, staged)
    tags = {
        MODEL_ID_TAG: model_id,
        SERVICE_TAG: candidate.service.key,
        DIGEST_TAG: digest,
        STATUS_TAG: PENDING,
        **owner,
    }
    logged = log_model(registry.tracking, run_id, staged, tags)
    rows = list_versions(registry.store, service=candidate.service.key)
    taken = {row.mlflow_version for row in rows}
    number = create_version(registry.tracking, run_id, logged, tags, taken)
    config = candidate.parts.config
    # A claimed model's training data are unknown: those of its bundle are the golden examples'.
    trained_until = datetime.fromisoformat(config["trained_until"])
    row = ModelVersion(
        model_id=model_id,
        service=candidate.service.key,
        mlflow_version=number,
        run_id=run_id,
        model_type=candidate.model_type,
        symbol=candidate.service.symbol,
        status=candidate.status,
        digest=digest,
        bundle_uri=f"{logged.artifact_location}/data/{BUNDLE_FOLDER}",
        watermark="" if candidate.claims_only else config["watermark"],
        trained_until=None if candidate.claims_only else trained_until,
        recipe_digest=candidate.recipe_digest,
        claims_only=candidate.claims_only,
        code_version=config["code_version"],
        created_at=at,
        report=candidate.report,
        metrics=candidate.metrics,
        notes=candidate.notes,
        request_key=None if candidate.request is None else candidate.request.key,
        request_digest=None if candidate.request is None else candidate.request.digest,
    )
    _verify(registry, row)
    return row


def _write(registry: Registry, candidate: Candidate, staged: Path) -> str:
    key = choose_signing_key(
        registry.store, _require_key(registry), registry.key_file, registry.bundles
    )
    return write_bundle(candidate.parts, staged, key)


def _require_key(registry: Registry) -> SigningKey:
    assert registry.trust.key is not None
    return registry.trust.key


def log_model(
    tracking: Tracking, run_id: str, staged: Path, tags: Mapping[str, str]
) -> LoggedModel:
    """Give the bundle in ``staged`` to MLflow; the logged model names our loader, ships no code.

    Args:
        tags: Those of a pending version, its model id among them.
    """
    import mlflow

    before = tracking.client.get_run(run_id).info.status
    with mlflow.start_run(run_id=run_id, nested=True):
        info = mlflow.pyfunc.log_model(
            name=tags[MODEL_ID_TAG],
            loader_module=LOADER,
            data_path=str(staged),
            pip_requirements=[f"{DISTRIBUTION}=={release()}"],
            tags=dict(tags),
        )
    if before == "RUNNING":
        # Leaving the block ended the run, which may be a training that goes on.
        tracking.client.update_run(run_id, status=before)
    return tracking.client.get_logged_model(info.model_id)


def create_version(
    tracking: Tracking,
    run_id: str,
    logged: LoggedModel,
    tags: Mapping[str, str],
    taken: Collection[int],
) -> int:
    """Number the logged model within its service's registered model, made where missing.

    Args:
        tracking: The open MLflow.
        run_id: The run that trained it.
        logged: The model.
        tags: Those of a pending version.
        taken: Numbers of the store's rows: one that is made anew in MLflow counts from 1 again.
    """
    from mlflow.exceptions import MlflowException

    client, service = tracking.client, tags[SERVICE_TAG]
    try:
        client.get_registered_model(service)
    except MlflowException:
        # Another installation may make it in between.
        with suppress(MlflowException):
            owner = {name: tags[name] for name in (SERVICE_TAG, INSTALLATION_TAG)}
            client.create_registered_model(service, tags=owner)
    while True:
        created = client.create_model_version(
            service,
            source=logged.model_uri,
            run_id=run_id,
            tags={**tags, LOGGED_TAG: logged.model_id},
            model_id=logged.model_id,
        )
        if int(created.version) not in taken:
            return int(created.version)
        # MLflow gives the number of a deleted version to no other one.
        client.delete_model_version(service, created.version)


def _verify(registry: Registry, row: ModelVersion) -> None:
    """Load the bundle in a clean process, from where MLflow put it."""
    verified = verify_bundle(
        fetch(row.bundle_uri, row.digest, registry),
        key_file=registry.key_file,
        modules=registry.trust.modules,
        allow_signed_pickle=registry.trust.allow_signed_pickle,
    )
    if verified != row.digest:
        raise RegistryError(
            f"MLflow stored {row.model_id} with digest {verified[:12]} instead of "
            f"{row.digest[:12]}; check the artifact store, then register again"
        )


def _commit(
    registry: Registry,
    candidate: Candidate,
    row: ModelVersion,
    why: Why,
    hooks: _CommitHooks,
) -> None:
    with registry.store.write() as connection:
        require_held(connection, hooks.lease)
        if hooks.fence is not None:
            hooks.fence(connection)
        require_known_key(connection, _require_key(registry), registry.key_file)
        insert_version(connection, row, why)
        if candidate.begins_service:
            begin_route(connection, row.service, row.model_id, why)
        for hook in hooks.within:
            hook(connection, row)


def _show_in_mlflow(registry: Registry, row: ModelVersion) -> None:
    ids = {"service": row.service, "model_id": row.model_id}
    try:
        mirror(registry.store, registry.tracking, row.service)
    except (RegistryError, StoreError) as error:
        # The version exists; showing it in MLflow is repeated by the next reconcile.
        log.warning(
            "model_id=%s is registered but MLflow does not show it yet: %s",
            row.model_id,
            error,
            extra=ids,
        )
    log.info(
        "registered model_id=%s service=%s status=%s digest=%s",
        row.model_id,
        row.service,
        row.status,
        row.digest[:12],
        extra=ids,
    )


def check_size_and_disk(home: Path, size: int) -> None:
    """Check that a model of ``size`` bytes may be registered, and that the disk has room for it.

    Raises:
        RegistryError: when it is too large.
        DiskFull: when the disk has no room.
    """
    if size > MAX_BYTES:
        raise RegistryError(
            f"the model is {size:,} bytes, at most {MAX_BYTES:,} are allowed; "
            "register a smaller model"
        )
    free = shutil.disk_usage(home).free
    if free < _DISK_FACTOR * size:
        raise DiskFull(
            f"registering needs {_DISK_FACTOR * size:,} bytes under {home}, {free:,} are free; "
            "free disk space or move MLOPS_BASE_PATH"
        )
