"""What a backup folder holds, and the file that lists it with its digests.

backup.json     this list; a folder without it is no backup
store.db        the store, or store.dump where it is a Postgres
mlflow.db       MLflow's database
artifacts/      MLflow's artifacts, the bundles among them
keys/           the signing key
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from mlops.errors import BackupError, StoreError
from mlops.store.sqlite_files import find_damage

LIST = "backup.json"
STORE, DUMP, MLFLOW = "store.db", "store.dump", "mlflow.db"
ARTIFACTS, KEYS = "artifacts", "keys"
_VERSION = 1


class Contents(msgspec.Struct, frozen=True):
    """The list of a backup.

    Args:
        made_at: UTC.
        release: The code that made it.
        installation: The uuid of the store.
        artifacts: Where MLflow kept its artifacts; None where a server keeps them.
        bundles: The folder of each version's bundle within ``artifacts/``, by model_id.
        files: The SHA-256 of each file by its path in the backup.
        left_out: What is not in it, one sentence each.
    """

    made_at: datetime
    release: str
    installation: str
    artifacts: str | None
    bundles: dict[str, str]
    files: dict[str, str]
    left_out: tuple[str, ...]
    version: int = _VERSION


def write_list(folder: Path, contents: Contents) -> None:
    """Write the list of a backup whose other files are all there."""
    text = msgspec.json.format(msgspec.json.encode(contents), indent=1)
    (folder / LIST).write_bytes(text)
    flush_to_disk(folder / LIST)


def read_backup(folder: Path) -> Contents:
    """Read the list of a backup, and check each file and database of it.

    Raises:
        BackupError: when it is no backup, or a file is missing or altered, or a database damaged.
    """
    try:
        contents = msgspec.json.decode((folder / LIST).read_bytes(), type=Contents)
    except (OSError, ValueError, RecursionError) as error:
        raise BackupError(f"{folder} is no backup ({error}); name the folder of {LIST}") from error
    if contents.version != _VERSION:
        raise BackupError(
            f"backup {folder} has version {contents.version}, this release reads {_VERSION}; "
            f"restore it with the release that made it ({contents.release})"
        )
    for name, digest in contents.files.items():
        if hash_file(folder / name) != digest:
            raise BackupError(f"{name} of backup {folder} was altered; take another copy")
    for name in {STORE, MLFLOW} & set(contents.files):
        _require_whole(folder / name)
    return contents


def _require_whole(database: Path) -> None:
    try:
        damage = find_damage(database)
    except StoreError as error:
        raise BackupError(f"a database of the backup cannot be read: {error}") from error
    if damage:
        raise BackupError(f"{database} is damaged ({damage}); take another copy")


def hash_file(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        BackupError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BackupError(f"{path} cannot be read ({error.strerror}); take another copy") from error


def list_files(folder: Path) -> list[Path]:
    """All files below a folder, by path."""
    return sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names)


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files below a folder that an earlier call did not copy, or that have changed since.

    A file that another process removes meanwhile is left out.
    """
    for path in list_files(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if not (place.exists() and _size_and_time(place) == _size_and_time(path)):
                shutil.copy2(path, place)


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def flush_to_disk(path: Path) -> None:
    """Let a file, or the names in a folder, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
