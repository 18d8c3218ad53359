"""The Prefect server's database is the one that the installation has made, and is migrated once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from deployments import prefect_server
from deployments.prefect_server import (
    copy_empty_database,
    make_environment,
    name_database,
    read_revision,
)
from mlops.settings import Settings
from tests.awkward import NAMES

SETTINGS = Settings(_env_file=None, prefect_run_days=3)  # type: ignore[call-arg]
MIGRATES = "PREFECT_SERVER_DATABASE_MIGRATE_ON_START"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `make install` has made."""
    database = tmp_path / "installed.db"
    write_revision(database, "newest")
    monkeypatch.setattr(prefect_server, "EMPTY_DATABASE", database)
    return database


def write_revision(database: Path, revision: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
        connection.execute("DELETE FROM alembic_version")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [revision])


def test_a_server_without_a_database_begins_with_a_migrated_one(
    empty: Path, tmp_path: Path
) -> None:
    home = tmp_path / "new" / "prefect"
    copy_empty_database(home)
    assert make_environment(home, SETTINGS)[MIGRATES] == "false"
    assert [file.name for file in home.iterdir()] == ["prefect.db"]


@pytest.mark.parametrize("name", NAMES)
def test_the_database_lies_in_the_home_whatever_its_name(
    empty: Path, tmp_path: Path, name: str
) -> None:
    home = tmp_path / name / "prefect"
    copy_empty_database(home)
    assert read_revision(home / "prefect.db") == "newest"
    given = name_database(home, {})
    for url in given.values():
        with closing(sqlite3.connect(url.partition(":///")[2], uri=True)) as connection:
            assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("newest",)]
    assert bool(given) == ("?" in name)


def test_a_database_of_the_users_own_is_kept(tmp_path: Path) -> None:
    own = {"PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://host/prefect"}
    assert name_database(tmp_path / "a?b", own) == {}


def test_a_database_that_is_there_is_kept_and_migrated_where_it_is_older(
    empty: Path, tmp_path: Path
) -> None:
    write_revision(tmp_path / "prefect.db", "older")
    copy_empty_database(tmp_path)
    assert read_revision(tmp_path / "prefect.db") == "older"
    assert MIGRATES not in make_environment(tmp_path, SETTINGS)


def test_without_an_installed_database_the_server_migrates_by_itself(
    empty: Path, tmp_path: Path
) -> None:
    empty.unlink()
    copy_empty_database(tmp_path)
    (tmp_path / "prefect.db").write_bytes(b"")
    assert MIGRATES not in make_environment(tmp_path, SETTINGS)


def test_runs_are_kept_as_long_as_the_setting_says(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, SETTINGS)
    assert environment["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"] == "259200"
