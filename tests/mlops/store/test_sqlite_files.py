"""A copy of a database is whole, and is put back beside processes that go on."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from mlops.errors import StoreError
from mlops.store import Store, engine, open_store, sqlite_files
from mlops.store.identity import read_installation
from mlops.store.migrations import HEAD
from mlops.store.sqlite_files import (
    KEPT_COPIES,
    copy_database,
    find_damage,
    find_users,
    keep_copy_before_migration,
    restore_database,
)

OLD_STORE = Path(__file__).parents[2] / "before" / "store-9ae3cdf.tar.xz"

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT * FROM number").fetchall()
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database in WAL mode whose rows lie in the WAL alone."""
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE number (n INTEGER)")
        put(connection, *range(1000))
        yield connection


@pytest.fixture
def path(live: sqlite3.Connection, tmp_path: Path) -> Path:
    return tmp_path / "live.db"


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    copy_database(path, tmp_path / "copy.db")
    return tmp_path / "copy.db"


def put(connection: sqlite3.Connection, *numbers: int) -> None:
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO number VALUES (?)", [(number,) for number in numbers])
    connection.execute("COMMIT")


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM number").fetchone()[0])


def count_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return count(connection)


@contextmanager
def held_open(path: Path) -> Iterator[int]:
    """Another process has the database open; yields its id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process.pid
        finally:
            process.communicate("\n")


def test_a_copy_has_what_lies_in_the_wal_alone(path: Path, copy: Path, tmp_path: Path) -> None:
    by_the_system = Path(shutil.copy(path, tmp_path / "cp.db"))
    assert count_in(copy) == 1000
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        count_in(by_the_system)


def test_an_open_connection_sees_what_was_restored_and_goes_on_writing(
    live: sqlite3.Connection, path: Path, copy: Path
) -> None:
    live.execute("DELETE FROM number")
    inode = path.stat().st_ino
    restore_database(copy, path)
    assert count(live) == 1000
    put(live, *range(4000))
    assert (path.stat().st_ino, find_damage(path), count(live)) == (inode, None, 5000)


def test_damage_is_described(live: sqlite3.Connection, path: Path) -> None:
    live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    assert "Page 2: btreeInitPage() returns error code 11; " in str(find_damage(path))


@pytest.mark.parametrize("content", [None, b"no database"])
def test_an_old_wal_is_not_applied_to_what_was_restored(
    live: sqlite3.Connection, tmp_path: Path, copy: Path, path: Path, content: bytes | None
) -> None:
    live.execute("PRAGMA wal_checkpoint(RESTART)")
    put(live, 1000)
    place = tmp_path / "place.db"
    for suffix in ("-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", f"{place}{suffix}")
    if content is not None:
        place.write_bytes(content)
    restore_database(copy, place)
    assert (count_in(place), find_damage(place)) == (1000, None)
    assert place.with_name("place.db.malformed").exists() == (content is not None)


def test_copies_are_for_no_more_users_than_the_database(path: Path, tmp_path: Path) -> None:
    path.chmod(0o600)
    copy_database(path, tmp_path / "private.db")
    keep_copy_before_migration(path, "0009")
    restore_database(tmp_path / "private.db", tmp_path / "restored.db")
    for name in ("private.db", "live.db.schema-0009", "restored.db"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("removed", [True, False])
def test_a_missing_or_malformed_database_is_not_replaced_while_a_process_has_it_open(
    tmp_path: Path, copy: Path, removed: bool
) -> None:
    place = Path(shutil.copy(copy, tmp_path / "place.db"))
    with held_open(place) as holder:
        if removed:
            place.unlink()
        else:
            with place.open("r+b") as file:
                file.write(b"no database any more")
        assert find_users(place) == (holder,)
        with pytest.raises(StoreError, match=f"have it open: {holder}; end them"):
            restore_database(copy, place)
        assert place.exists() != removed
    restore_database(copy, place)
    assert count_in(place) == 1000


def test_a_database_that_stays_locked_is_given_up(
    live: sqlite3.Connection, path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_files, "PATIENCE_S", 0.1)
    live.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"has been locked for 0\.1 s|database is locked"):
        copy_database(copy, path)
    live.execute("ROLLBACK")
    assert count(live) == 1000


def test_a_missing_source_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere\.db was not copied"):
        copy_database(tmp_path / "nowhere.db", tmp_path / "copy.db")
    assert not (tmp_path / "nowhere.db").exists()


@pytest.mark.parametrize("content", [None, b""])
def test_a_process_that_starts_during_a_restore_opens_what_was_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    copy, place = tmp_path / "copy.db", tmp_path / "store.db"
    with closing(open_store(f"sqlite:///{copy}")) as store:
        uuid = installation_id(store)
    if content is not None:
        place.write_bytes(content)

    def wait_for_restore(path: str, timeout: float) -> FileLock:
        monkeypatch.setattr(sqlite_files, "find_users", lambda _: ())
        monkeypatch.setattr(sqlite_files, "find_damage", lambda _: "it is no store")
        restore_database(copy, place)
        return FileLock(path, timeout=timeout)

    monkeypatch.setattr(engine, "FileLock", wait_for_restore)
    with closing(open_store(f"sqlite:///{place}")) as store:
        assert installation_id(store) == uuid
    monkeypatch.undo()
    assert find_damage(place) is None
    with closing(open_store(f"sqlite:///{place}")) as store:
        assert installation_id(store) == uuid


def installation_id(store: Store) -> str:
    with store.read() as connection:
        return read_installation(connection).uuid


def test_a_store_is_copied_before_it_is_migrated(tmp_path: Path) -> None:
    place = tmp_path / "store.db"
    with tarfile.open(OLD_STORE) as archive:
        content = archive.extractfile("mlops-9ae3cdf/store.db")
        assert content is not None
        place.write_bytes(content.read())
    open_store(f"sqlite:///{place}").close()
    kept = place.with_name(f"{place.name}.schema-0009")
    assert (read_revision(kept), read_revision(place)) == ("0009", HEAD)
    assert find_damage(kept) is None


def read_revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT * FROM mlops_schema_version").fetchone()[0])


def test_a_new_store_is_not_copied(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path / 'store.db'}").close()
    assert not list(tmp_path.glob("*.schema-*"))


def test_only_the_newest_copies_are_kept(copy: Path) -> None:
    for number in range(KEPT_COPIES + 2):
        keep_copy_before_migration(copy, f"{number:04}")
    kept = sorted(file.name for file in copy.parent.glob("copy.db.schema-*"))
    assert kept == ["copy.db.schema-0002", "copy.db.schema-0003"]
