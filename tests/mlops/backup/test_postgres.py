"""A store on Postgres is copied by pg_dump and put back by pg_restore; a missing one is named."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlops.backup import restore_backup, take_backup
from mlops.errors import BackupError
from mlops.installation import Installation
from mlops.models.signing import load_or_make_key
from mlops.registry.connection import key_file
from mlops.settings import Settings
from mlops.store import open_store
from mlops.store.identity import read_installation
from tests.postgres import PACKAGE, Server

PASSWORD = "hidden-word"


@pytest.fixture
def installation(tmp_path: Path, postgres: Server) -> Iterator[Installation]:
    name = f"backup_{uuid.uuid4().hex}"
    postgres.create(name)
    url = postgres.url(name).replace("postgres@", f"postgres:{PASSWORD}@")
    opened = Installation(
        Settings(_env_file=None, mlops_base_path=tmp_path, store_url=url, mlflow_tracking_uri="")
    )
    yield opened
    opened.close()
    postgres.drop(name)


@pytest.fixture
def _clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client programs of the test's server are the first on the path."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        own = Path(spec.origin).parent / "pginstall" / "bin"
        monkeypatch.setenv("PATH", f"{own}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("_clients")
def test_a_copy_of_postgres_is_put_back(installation: Installation, tmp_path: Path) -> None:
    with installation.store.read() as connection:
        uuid_before = read_installation(connection).uuid
    copy, _ = take_backup(installation, tmp_path / "copies")
    with installation.store.write() as connection:
        connection.exec_driver_sql("UPDATE installation SET uuid = 'another'")
    restore_backup(installation, copy)
    with closing(open_store(installation.settings.database_url)) as store, store.read() as again:
        assert read_installation(again).uuid == uuid_before


@pytest.mark.usefixtures("_clients")
def test_without_pg_restore_nothing_is_changed(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_or_make_key(key_file(installation.home))
    copy, _ = take_backup(installation, tmp_path / "copies")
    key_file(installation.home).unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="pg_restore is not installed here"):
        restore_backup(installation, copy)
    assert not key_file(installation.home).exists()


def test_without_pg_dump_nothing_is_copied(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match=r"pg_dump is not installed here.*postgresql-client"):
        take_backup(installation, tmp_path / "copies")
    assert not (tmp_path / "copies").exists()
