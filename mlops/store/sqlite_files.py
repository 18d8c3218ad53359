"""Copies SQLite databases and puts copies back, while other processes have them open.

A database is more than its file: what was committed last may lie in its ``-wal`` alone. So a file
that is copied or replaced by the system's own means loses data or is malformed; SQLite's backup
API (sqlite.org/backup.html) reads and writes whole databases, each in one transaction.
"""

from __future__ import annotations

import glob
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

from mlops.errors import StoreError

PATIENCE_S = 60.0
"""How long a copy waits for a process that keeps the database locked."""

KEPT_COPIES = 2
"""Copies from before a migration that are kept beside a store."""

_SIDE_FILES = ("", "-wal", "-shm", "-journal")
_MALFORMED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def copy_database(source: Path, target: Path) -> None:
    """Copy everything that is committed in ``source`` into ``target``, in one transaction.

    ``target`` is created where it is missing, readable for no more users than ``source``; else
    processes that have it open see the new content from their next transaction on.

    Raises:
        StoreError: when one of them cannot be read or written, or stays locked.
    """
    end = time.monotonic() + PATIENCE_S

    def give_up_when_late(*_: int) -> None:
        if time.monotonic() > end:
            raise StoreError(
                f"{source} was not copied to {target}: one of them has been locked for "
                f"{PATIENCE_S:g} s; end the process that locks it"
            )

    with (
        _naming_errors(f"{source} was not copied to {target}"),
        closing(_open(source)) as reading,
        closing(_open_or_create(target, mode=source.stat().st_mode)) as writing,
    ):
        reading.backup(writing, progress=give_up_when_late)


def find_damage(path: Path) -> str | None:
    """What is wrong with a database; None where it is whole.

    Raises:
        StoreError: when it cannot be read.
    """
    try:
        with _naming_errors(f"{path} cannot be checked"), closing(_open(path)) as connection:
            rows = connection.execute("PRAGMA integrity_check(3)").fetchall()
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF in _MALFORMED:
            return str(cause)
        raise
    text = "; ".join(line for row in rows for line in str(row[0]).splitlines())
    return None if text == "ok" else text


def restore_database(copy: Path, target: Path) -> None:
    """Put a copy in the place of a database.

    A whole database keeps its file and gets the copy's content. Where the file is missing or
    malformed, a new one takes its place; a malformed one stays beside it as ``.malformed``.

    Raises:
        StoreError: when the file is missing or malformed and a process has it open, or when it
            cannot be written; the database was not changed.
    """
    target = target.resolve()
    if target.exists() and find_damage(target) is None:
        copy_database(copy, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.restored")
    fresh.unlink(missing_ok=True)
    copy_database(copy, fresh)
    # A process that opens the store meanwhile waits for this lock, and connects again then.
    with FileLock(f"{target}.lock", timeout=PATIENCE_S):
        _require_unused(target)
        _clear_place(target)
        fresh.replace(target)


def require_replaceable(target: Path) -> None:
    """Check that `restore_database` can replace a database now.

    Raises:
        StoreError: when it cannot; nothing was changed.
    """
    target = target.resolve()
    if not target.exists() or find_damage(target) is not None:
        _require_unused(target)
        return
    try:
        with closing(_open(target)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise StoreError(
            f"{target} cannot be replaced ({error}); end the process that locks it, and check "
            "that this user may write it. Nothing was changed"
        ) from error


def find_users(path: Path) -> tuple[int, ...]:
    """The ids of the processes that have a database open, also when its file was removed.

    Processes of other users are seen by root only.
    """
    names = {f"{path}{suffix}" for suffix in _SIDE_FILES}
    return tuple(sorted({pid for pid, name in _open_files() if name in names}))


def keep_copy_before_migration(path: Path, revision: str) -> None:
    """Copy a store beside itself, as ``.schema-<revision>``; there is no downgrade.

    Raises:
        StoreError: when there is no room for the copy, for instance.
    """
    kept = path.with_name(f"{path.name}.schema-{revision}")
    part = kept.with_name(f"{kept.name}.part")
    part.unlink(missing_ok=True)
    copy_database(path, part)
    part.replace(kept)
    pattern = f"{glob.escape(path.name)}.schema-*"
    copies = sorted(path.parent.glob(pattern), key=lambda file: file.stat().st_mtime)
    for oldest in copies[:-KEPT_COPIES]:
        oldest.unlink()


def _require_unused(target: Path) -> None:
    users = find_users(target)
    if users:
        raise StoreError(
            f"{target} is missing or malformed, and these processes have it open: "
            f"{', '.join(map(str, users))}; end them, then restore again. It was not changed"
        )


def _clear_place(target: Path) -> None:
    """Remove what SQLite would apply to the new file, and keep the malformed one."""
    if target.exists():
        target.replace(target.with_name(f"{target.name}.malformed"))
    for suffix in _SIDE_FILES[1:]:
        Path(f"{target}{suffix}").unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    """Open a database that must exist."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE_S)


def _open_or_create(path: Path, mode: int) -> sqlite3.Connection:
    path.touch(mode & 0o777)
    return _open(path)


def _open_files() -> Iterator[tuple[int, str]]:
    """Process id and path of each open file of this host that this user may see."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            yield int(link.parts[2]), str(link.readlink()).removesuffix(" (deleted)")
        except OSError:
            # The process has ended, or is another user's.
            continue


@contextmanager
def _naming_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"{what} ({error}); check that both are there, with room and rights to write"
        ) from error
