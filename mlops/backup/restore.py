"""Puts a backup into an installation, which may lie elsewhere than the one that was copied.

SQLite databases are prepared beside their places: migrated to this release, and their ``file:``
URIs changed to the new places. Bundles and key come first, the store last and in one transaction,
so a process that has it open goes from what it served to what was restored, and finds every bundle.
Postgres gets the new places in a second transaction; a bundle that is loaded in between is looked
for at its old place.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

from mlops.backup.contents import (
    ARTIFACTS,
    DUMP,
    KEYS,
    MLFLOW,
    STORE,
    Contents,
    flush_to_disk,
    hash_file,
    read_backup,
)
from mlops.backup.scratch import scratch_folder
from mlops.errors import BackupError
from mlops.installation import Installation
from mlops.models.signing import install_key
from mlops.paths import sqlite_url
from mlops.registry.connection import key_file
from mlops.registry.tracking import Location
from mlops.store import open_store
from mlops.store.connect import find_database_file
from mlops.store.postgres_dump import require_program, restore_postgres
from mlops.store.relocation import relocate_store
from mlops.store.sqlite_files import copy_database, require_replaceable, restore_database

_MLFLOW_URIS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""The columns of MLflow's database that say where files lie."""


def restore_backup(installation: Installation, folder: Path) -> tuple[Contents, bool]:
    """Check a backup, and put it in the place of what the installation's settings name.

    Nothing of the installation needs to be there; where it works, it need not be stopped. Whatever
    can be checked before is checked before the first change.

    Returns:
        The list of the backup; ``left_out`` has also what was in it and not restored. And whether
        another signing key was replaced, so that running processes must be restarted.

    Raises:
        BackupError: when the backup is damaged, or not of this kind of database.
        StoreError: when a database cannot be replaced; `restore_database` says when.
    """
    contents = read_backup(folder)
    url, home = installation.settings.database_url, installation.home
    mlflow = installation.bundles.mlflow
    _require_same_kind(contents, url)
    with _naming_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        artifacts = mlflow.artifacts or home / "mlruns" / "artifacts"
        uris = {name: (artifacts / place).as_uri() for name, place in contents.bundles.items()}
        with scratch_folder(home / f"restore-{uuid4().hex[:8]}.part", "restore-*.part") as scratch:
            prepared = {
                **_prepare_mlflow(contents, folder, mlflow, scratch),
                **_prepare_store(folder, url, uris, scratch),
            }
            _require_replaceable(contents, prepared)
            key_changed = _restore_keys(contents, folder, home)
            _restore_files(contents, folder, artifacts)
            for target, copy in prepared.items():
                restore_database(copy, target)
            if DUMP in contents.files:
                _restore_postgres(folder, url, uris)
    if MLFLOW in contents.files and mlflow.database is None:
        left = "MLflow's database: MLFLOW_TRACKING_URI names a server, which keeps its own"
        contents = msgspec.structs.replace(contents, left_out=(*contents.left_out, left))
    return contents, key_changed


def _require_same_kind(contents: Contents, url: str) -> None:
    wanted = STORE if find_database_file(url) else DUMP
    if wanted not in contents.files:
        has = " and ".join({STORE, DUMP} & set(contents.files)) or "no copy of a store"
        raise BackupError(
            f"the store of these settings needs {wanted}, the backup has {has}; set STORE_URL to "
            "the kind of database that was copied, or put the copy there by its own means"
        )


def _require_replaceable(contents: Contents, databases: Iterable[Path]) -> None:
    for database in databases:
        require_replaceable(database)
    if DUMP in contents.files:
        require_program("pg_restore")


def _restore_keys(contents: Contents, folder: Path, home: Path) -> bool:
    """Put the keys in place; returns whether another one was there."""
    changed = False
    for name in contents.files:
        if name.startswith(f"{KEYS}/"):
            target = key_file(home).with_name(Path(name).name)
            secret = (folder / name).read_bytes()
            changed |= target.exists() and target.read_bytes() != secret
            install_key(target, secret)
            flush_to_disk(target)
            flush_to_disk(target.parent)
    return changed


def _restore_files(contents: Contents, folder: Path, artifacts: Path) -> None:
    changed: set[Path] = set()
    for name, digest in contents.files.items():
        if not name.startswith(f"{ARTIFACTS}/"):
            continue
        place = artifacts / name.removeprefix(f"{ARTIFACTS}/")
        if place.exists() and hash_file(place) == digest:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.restored")
        shutil.copy(folder / name, part)
        flush_to_disk(part)
        part.replace(place)
        changed |= {parent for parent in place.parents if parent.is_relative_to(artifacts)}
    for parent in changed:
        flush_to_disk(parent)


def _prepare_mlflow(
    contents: Contents, folder: Path, mlflow: Location, scratch: Path
) -> dict[Path, Path]:
    """The copy that takes the place of MLflow's database, by that place."""
    if MLFLOW not in contents.files or mlflow.database is None or mlflow.artifacts is None:
        return {}
    prepared = scratch / MLFLOW
    copy_database(folder / MLFLOW, prepared)
    if contents.artifacts is not None:
        with closing(sqlite3.connect(prepared)) as connection, connection:
            _move_uris(connection, contents.artifacts, mlflow.artifacts.as_uri())
    return {mlflow.database: prepared}


def _move_uris(connection: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in _MLFLOW_URIS.items():
        connection.execute(
            f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
            f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
            {"old": old, "new": new},
        )


def _prepare_store(
    folder: Path, url: str, uris: Mapping[str, str], scratch: Path
) -> dict[Path, Path]:
    """The copy that takes the place of the store's file, by that place."""
    target = find_database_file(url)
    if target is None:
        return {}
    prepared = scratch / STORE
    copy_database(folder / STORE, prepared)
    with closing(open_store(sqlite_url(prepared))) as store:
        relocate_store(store, uris)
    return {target: prepared}


def _restore_postgres(folder: Path, url: str, uris: Mapping[str, str]) -> None:
    restore_postgres(url, folder / DUMP)
    with closing(open_store(url)) as store:
        relocate_store(store, uris)


@contextmanager
def _naming_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise BackupError(
            f"the backup was not restored to {home} ({error}); check free space and rights, then "
            "restore again"
        ) from error
