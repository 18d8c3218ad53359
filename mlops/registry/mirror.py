"""Mirrors the store in MLflow: the aliases of each service, and a status tag on each version.

The store decides; an alias that was moved by hand is put back.

Installations may share an MLflow. They number the versions of a service together, in one
registered model, which belongs to the installation that made it: only this one moves the plain
aliases. The aliases of any other end in the first characters of its own id, as in
``champion-1a2b3c4d``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from mlops.errors import RegistryError
from mlops.registry.ownership import INSTALLATION_TAG, installation_id
from mlops.registry.tracking import Tracking
from mlops.store import ModelVersion, Store, list_versions
from mlops.store.routes import aliases

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel

log = logging.getLogger(__name__)

MODEL_ID_TAG = "model_id"
SERVICE_TAG = "service"
STATUS_TAG = "status"
DIGEST_TAG = "digest"
LOGGED_TAG = "mlops.logged_model"
PENDING = "pending"
ALIASES = ("champion", "challenger", "baseline")
_ID_CHARACTERS = 8


def mirror(store: Store, tracking: Tracking, service: str) -> tuple[str, ...]:
    """Make MLflow agree with the store on one service; returns a sentence for each change.

    A version that was deleted in MLflow is reported each time, and gets no alias.

    Raises:
        RegistryError: when MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    installation, rows = installation_id(store), list_versions(store, service=service)
    try:
        own = _find_versions(tracking, service, rows)
        changed = _mirror_tags(tracking, rows, own, installation)
        changed += _mirror_aliases(store, tracking, service, own, installation)
    except MlflowException as error:
        raise RegistryError(
            f"MLflow at {tracking.uri} does not show what is live of {service} ({error}); the "
            "store decides and serving goes on, `reconcile` repairs it once MLflow answers"
        ) from error
    for change in changed:
        log.info("service=%s %s", service, change, extra={"service": service})
    return tuple(changed)


def _find_versions(
    tracking: Tracking, service: str, rows: Iterable[ModelVersion]
) -> dict[int, MlflowVersion]:
    """The MLflow versions of the store's rows by number, without those that MLflow lacks."""
    ids = {row.mlflow_version: row.model_id for row in rows}
    shown = search_versions(tracking, f"name = '{service}'")
    return {
        int(version.version): version
        for version in shown
        if version.tags.get(MODEL_ID_TAG) == ids.get(int(version.version), "")
    }


def _mirror_aliases(
    store: Store,
    tracking: Tracking,
    service: str,
    own: Mapping[int, MlflowVersion],
    installation: str,
) -> list[str]:
    if not own:
        # The registered model itself may be missing, and an alias would name nothing.
        return []
    model = tracking.client.get_registered_model(service)
    suffix = (
        "" if _owns(tracking, model, own, installation) else f"-{installation[:_ID_CHARACTERS]}"
    )
    # MLflow refuses an alias of a version that it lacks.
    wanted = {
        f"{alias}{suffix}": number
        for alias, number in aliases(store, service).items()
        if number in own
    }
    current = {alias: int(number) for alias, number in model.aliases.items()}
    changed = []
    for alias in (f"{alias}{suffix}" for alias in ALIASES):
        want, have = wanted.get(alias), current.get(alias)
        if want == have:
            continue
        if want is None:
            tracking.client.delete_registered_model_alias(service, alias)
        else:
            tracking.client.set_registered_model_alias(service, alias, str(want))
        changed.append(f"alias {alias}: {have or 'none'} -> {want or 'none'}")
    return changed


def _owns(
    tracking: Tracking, model: RegisteredModel, own: Iterable[int], installation: str
) -> bool:
    """Whether the registered model is this installation's, which moves its plain aliases.

    One that names no installation was made by an earlier release. It becomes this installation's
    where its plain aliases name none but own versions.
    """
    owner = model.tags.get(INSTALLATION_TAG)
    if owner is None:
        named = {int(number) for alias, number in model.aliases.items() if alias in ALIASES}
        if named - set(own):
            return False
        tracking.client.set_registered_model_tag(model.name, INSTALLATION_TAG, installation)
    return owner in (None, installation)


def _mirror_tags(
    tracking: Tracking,
    rows: Iterable[ModelVersion],
    own: Mapping[int, MlflowVersion],
    installation: str,
) -> list[str]:
    changed = []
    for row in rows:
        version = own.get(row.mlflow_version)
        if version is None:
            changed.append(
                f"version {row.model_id} is missing in MLflow; the store still serves it"
            )
            continue
        if INSTALLATION_TAG not in version.tags:
            # A release that told no installations apart registered it.
            tracking.client.set_model_version_tag(
                row.service, version.version, INSTALLATION_TAG, installation
            )
        if version.tags.get(STATUS_TAG) != row.status:
            show_status(tracking, version, row.status)
            changed.append(
                f"status of {row.model_id}: {version.tags.get(STATUS_TAG)} -> {row.status}"
            )
    return changed


def show_status(tracking: Tracking, version: MlflowVersion, status: str) -> None:
    """Show a status at a version and its logged model."""
    from mlflow.exceptions import MlflowException

    # The logged model may have been deleted by hand; the version is tagged all the same.
    with suppress(MlflowException):
        logged = version.tags.get(LOGGED_TAG, "")
        tracking.client.set_logged_model_tags(logged, {STATUS_TAG: str(status)})
    tracking.client.set_model_version_tag(version.name, version.version, STATUS_TAG, str(status))


def search_versions(tracking: Tracking, query: str) -> list[MlflowVersion]:
    """Every MLflow version that a query of MLflow finds."""
    versions: list[MlflowVersion] = []
    token: str | None = None
    while True:
        page = tracking.client.search_model_versions(query, page_token=token)
        versions.extend(page)
        token = page.token
        if not token:
            return versions
