"""Tells what is wrong with an installation: databases, key, bundles, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from mlops.errors import BundleError, MlopsError, StoreError
from mlops.installation import Installation
from mlops.models.manifest import read_manifest
from mlops.registry import check_reachable, fetch_bundle, find_unknown_versions
from mlops.registry.fetching import is_local
from mlops.store import ModelVersion, list_routes, list_versions
from mlops.store.connect import find_database_file
from mlops.store.engine import needs_migration
from mlops.store.sqlite_files import find_damage
from mlops.store.versions import known_ids

LEAST_FREE_BYTES = 1024**3
"""Less free room stops forecasts and registrations soon."""


def find_problems(installation: Installation) -> tuple[str, ...]:
    """What is wrong, one sentence each; empty where nothing is.

    Neither a store nor a key is made, and nothing is migrated. A bundle that an MLflow server keeps
    is checked where a service serves it, and is downloaded for that.
    """
    problems = [*_check_databases(installation), *_check_room(installation)]
    unusable = _find_why_unusable(installation.settings.database_url)
    if unusable:
        return (*problems, unusable)
    if not known_ids(installation.store):
        # Key and MLflow's database are made with the first version.
        return tuple(problems)
    away = _find_why_away(installation)
    problems += _check_versions(installation, with_remote=not away)
    problems += [away] if away else _check_mlflow(installation)
    return tuple(dict.fromkeys(problems))


def _find_why_unusable(url: str) -> str:
    """Why the store cannot be used as it is; empty where it can."""
    file = find_database_file(url)
    if file is not None and not file.exists():
        return (
            f"there is no store {file}; restore it from a backup, or correct MLOPS_BASE_PATH or "
            "STORE_URL"
        )
    try:
        if not needs_migration(url):
            return ""
    except StoreError as error:
        return f"the store does not open: {error}"
    return (
        "the store is empty, or of an older release: the first process of this release migrates "
        "it; check again then, or check with the release that wrote it"
    )


def _check_databases(installation: Installation) -> Iterator[str]:
    store = find_database_file(installation.settings.database_url)
    for name, path in (("the store", store), ("MLflow", installation.bundles.mlflow.database)):
        if path is None or not path.exists():
            continue
        try:
            damage = find_damage(path)
        except StoreError as error:
            yield f"{name}: {error}"
            continue
        if damage:
            yield f"{name}: {path} is damaged ({damage}); restore it from a backup"


def _check_room(installation: Installation) -> Iterator[str]:
    if not installation.home.exists():
        yield f"there is no {installation.home}; check MLOPS_BASE_PATH"
        return
    free = shutil.disk_usage(installation.home).free
    if free < LEAST_FREE_BYTES:
        yield f"{installation.home} has {free:,} bytes free, less than {LEAST_FREE_BYTES:,}"


def _find_why_away(installation: Installation) -> str:
    """Why no MLflow server answers; empty where it does, or where none is needed."""
    try:
        check_reachable(installation.bundles.mlflow.uri)
    except MlopsError as error:
        return str(error)
    return ""


def _check_versions(installation: Installation, *, with_remote: bool) -> Iterator[str]:
    try:
        installation.trust  # noqa: B018 - it is opened, which compares the key with the store
    except MlopsError as error:
        yield str(error)
        return
    serving = {
        model_id
        for route in list_routes(installation.store)
        for model_id in (route.champion, route.challenger, route.previous_champion, route.baseline)
    }
    for version in list_versions(installation.store):
        if version.bundle_removed_at is not None:
            continue
        if is_local(version.bundle_uri) or (with_remote and version.model_id in serving):
            try:
                _check_bundle(version, installation)
            except MlopsError as error:
                yield f"{version.model_id}: {error}"


def _check_mlflow(installation: Installation) -> Iterator[str]:
    database = installation.bundles.mlflow.database
    if database is not None and not database.exists():
        yield f"MLflow: there is no {database}; restore it from a backup"
        return
    try:
        unknown = find_unknown_versions(installation.registry)
    except MlopsError as error:
        yield str(error)
        return
    if unknown:
        yield (
            f"MLflow shows versions that the store does not know: {', '.join(unknown)}; they were "
            "registered after the copy that the store was restored from. The next `reconcile` run "
            "tags them failed"
        )


def _check_bundle(version: ModelVersion, installation: Installation) -> None:
    key = installation.trust.key
    bundle = fetch_bundle(version.bundle_uri, version.digest, installation.bundles, key=key)
    digest = read_manifest(bundle).digest
    if digest != version.digest:
        raise BundleError(f"{bundle} holds another version's bundle; restore it from a backup")
    if key is not None:
        key.check(bundle, digest)
