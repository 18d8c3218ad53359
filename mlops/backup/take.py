"""Takes a copy of an installation while it works.

    bundles -> hold the registration lease -> store -> new bundles, MLflow, key -> list -> rename

Under the lease the store comes first: of each version that it names the bundle is there, because
nothing is registered or removed meanwhile. Most bundles are copied before, because registrations
give up when they have waited for minutes. The folder gets its name when all of it is on disk.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from mlops.backup.contents import (
    ARTIFACTS,
    DUMP,
    KEYS,
    MLFLOW,
    STORE,
    Contents,
    copy_tree,
    flush_to_disk,
    hash_file,
    list_files,
    write_list,
)
from mlops.backup.scratch import scratch_folder
from mlops.code_version import code_version
from mlops.errors import BackupError
from mlops.installation import Installation
from mlops.paths import path_of
from mlops.registry.connection import key_file
from mlops.registry.fetching import is_local
from mlops.registry.ownership import exclusive_registration
from mlops.registry.tracking import Location
from mlops.store import ModelVersion, Store, list_versions
from mlops.store.connect import find_database_file
from mlops.store.identity import read_installation
from mlops.store.leases import require_held
from mlops.store.postgres_dump import dump_postgres, require_program
from mlops.store.sqlite_files import copy_database

ELSEWHERE = "elsewhere"
"""Folder in ``artifacts/`` of bundles that do not lie among MLflow's artifacts."""

NEVER_IN_IT = (
    "bars, features and other caches: they are made again",
    "logs, request logs, reports and studies",
    "Prefect's database: its schedules are set up again by `make deploy`; jobs of your own are not",
)


def take_backup(installation: Installation, folder: Path) -> tuple[Path, Contents]:
    """Copy store, bundles, MLflow's database and signing key into a new folder of ``folder``.

    Returns:
        The new folder, named by the time (UTC), and the list of what is in it.

    Raises:
        BackupError: when something cannot be copied; no folder is left.
        StoreError, RegistryError: when the store or the registration lease cannot be had.
        LeaseLost: when the lease was lost while the copy was made; no folder is left.
    """
    _require_copyable_store(installation.settings.database_url)
    now = datetime.now(UTC)
    target = folder.absolute() / f"mlops-{now:%Y%m%dT%H%M%SZ}"
    part = target.with_name(f"{target.name}.part")
    try:
        with scratch_folder(part, "mlops-*.part"):
            contents = _fill(part, installation, now)
            part.rename(target)
        flush_to_disk(folder)
    except OSError as error:
        raise BackupError(
            f"the backup could not be written to {folder} ({error}); nothing was left there. Check "
            "free space and rights"
        ) from error
    return target, contents


def _require_copyable_store(url: str) -> None:
    file = find_database_file(url)
    if file is None:
        require_program("pg_dump")
    elif not file.exists():
        raise BackupError(
            f"there is no store {file}, so nothing was copied; check MLOPS_BASE_PATH and STORE_URL"
        )


def _fill(part: Path, installation: Installation, now: datetime) -> Contents:
    mlflow = installation.bundles.mlflow
    _copy_bundles(installation.store, mlflow, part)
    with exclusive_registration(installation.store) as lease:
        _copy_store(installation, part)
        bundles, missing = _copy_bundles(installation.store, mlflow, part)
        left_out = [*NEVER_IN_IT, *missing, *_copy_mlflow(mlflow, part)]
        left_out += _copy_keys(key_file(installation.home), part)
        with installation.store.write() as connection:
            require_held(connection, lease)
            identity = read_installation(connection)
    files = list_files(part)
    for path in files:
        flush_to_disk(path)
    contents = Contents(
        made_at=now,
        release=code_version(),
        installation=identity.uuid,
        artifacts=None if mlflow.artifacts is None else mlflow.artifacts.as_uri(),
        bundles=bundles,
        files={str(path.relative_to(part)): hash_file(path) for path in files},
        left_out=tuple(left_out),
    )
    write_list(part, contents)
    return contents


def _copy_store(installation: Installation, part: Path) -> None:
    file = installation.store.file
    if file is None:
        dump_postgres(installation.settings.database_url, part / DUMP)
    else:
        copy_database(Path(file.path), part / STORE)


def _copy_keys(key: Path, part: Path) -> list[str]:
    (part / KEYS).mkdir(mode=0o700)
    copy_tree(key.parent, part / KEYS)
    if not (part / KEYS / key.name).exists():
        return [f"the signing key: there is no {key}; without it no bundle of the copy loads"]
    return []


def _copy_mlflow(mlflow: Location, part: Path) -> list[str]:
    database = mlflow.database
    if database is None:
        return ["MLflow's database and artifacts: back up the server of MLFLOW_TRACKING_URI"]
    if not database.exists():
        return [f"MLflow's database: there is no {database}"]
    copy_database(database, part / MLFLOW)
    return []


def _copy_bundles(store: Store, mlflow: Location, part: Path) -> tuple[dict[str, str], list[str]]:
    """Copy MLflow's artifacts, and bundles that lie elsewhere on this machine.

    Returns:
        The folder of each version's bundle within ``artifacts/``, and what is missing.
    """
    if mlflow.artifacts is not None and mlflow.artifacts.exists():
        copy_tree(mlflow.artifacts, part / ARTIFACTS)
    bundles, missing = {}, []
    for version in list_versions(store):
        if version.bundle_removed_at is not None or not is_local(version.bundle_uri):
            continue
        source = path_of(version.bundle_uri)
        place = _place_of(version, source, mlflow)
        copy_tree(source, part / ARTIFACTS / place)
        if (part / ARTIFACTS / place).is_dir():
            bundles[version.model_id] = str(place)
        else:
            missing.append(f"the bundle of {version.model_id}: there is no {source}")
    return bundles, missing


def _place_of(version: ModelVersion, source: Path, mlflow: Location) -> Path:
    """The folder of a version's bundle within ``artifacts/``."""
    if mlflow.artifacts is not None and source.is_relative_to(mlflow.artifacts):
        return source.relative_to(mlflow.artifacts)
    return Path(ELSEWHERE, version.model_id)
