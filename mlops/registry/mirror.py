"""Mirrors the store in MLflow: the aliases of each service, and a status tag on each version.

The store decides; an alias that was moved by hand is put back.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from mlops.errors import RegistryError
from mlops.registry.tracking import Tracking
from mlops.store import Store, list_versions
from mlops.store.routes import aliases

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

log = logging.getLogger(__name__)

MODEL_ID_TAG = "model_id"
SERVICE_TAG = "service"
STATUS_TAG = "status"
DIGEST_TAG = "digest"
LOGGED_TAG = "mlops.logged_model"
PENDING = "pending"
ALIASES = ("champion", "challenger", "baseline")


def mirror(store: Store, tracking: Tracking, service: str) -> tuple[str, ...]:
    """Make MLflow agree with the store on one service; returns a sentence for each change.

    Raises:
        RegistryError: when MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        changed = _mirror_tags(store, tracking, service)
        changed += _mirror_aliases(store, tracking, service)
    except MlflowException as error:
        raise RegistryError(
            f"MLflow at {tracking.uri} does not show what is live of {service} ({error}); the "
            "store decides and serving goes on, `reconcile` repairs it once MLflow answers"
        ) from error
    for change in changed:
        log.info("service=%s %s", service, change, extra={"service": service})
    return tuple(changed)


def _mirror_aliases(store: Store, tracking: Tracking, service: str) -> list[str]:
    wanted = aliases(store, service)
    shown = tracking.client.get_registered_model(service).aliases
    current = {alias: int(number) for alias, number in shown.items()}
    changed = []
    for alias in ALIASES:
        want, have = wanted.get(alias), current.get(alias)
        if want == have:
            continue
        if want is None:
            tracking.client.delete_registered_model_alias(service, alias)
        else:
            tracking.client.set_registered_model_alias(service, alias, str(want))
        changed.append(f"alias {alias}: {have or 'none'} -> {want or 'none'}")
    return changed


def _mirror_tags(store: Store, tracking: Tracking, service: str) -> list[str]:
    from mlflow.exceptions import MlflowException

    client = tracking.client
    shown = {int(version.version): version for version in versions_of(tracking, service)}
    changed = []
    for row in list_versions(store, service=service):
        version = shown.get(row.mlflow_version)
        if version is None:
            changed.append(
                f"version {row.model_id} is missing in MLflow; the store still serves it"
            )
        elif version.tags.get(STATUS_TAG) != row.status:
            # The logged model may have been deleted by hand; the version is tagged all the same.
            with suppress(MlflowException):
                logged = version.tags.get(LOGGED_TAG, "")
                client.set_logged_model_tags(logged, {STATUS_TAG: str(row.status)})
            number = str(row.mlflow_version)
            client.set_model_version_tag(service, number, STATUS_TAG, str(row.status))
            changed.append(
                f"status of {row.model_id}: {version.tags.get(STATUS_TAG)} -> {row.status}"
            )
    return changed


def versions_of(tracking: Tracking, service: str) -> list[MlflowVersion]:
    """Every MLflow version of a service."""
    versions: list[MlflowVersion] = []
    token: str | None = None
    while True:
        page = tracking.client.search_model_versions(f"name = '{service}'", page_token=token)
        versions.extend(page)
        token = page.token
        if not token:
            return versions
