"""Fresh stores on both databases, and rows to put in them.

A folder whose tests need a store imports these fixtures into its conftest:

    from tests.stores import add, began, empty_url, store, url

Each test that uses one then runs twice, on SQLite and on Postgres.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops.store import ModelVersion, Status, Store, Why, open_store
from mlops.store.routes import begin_route
from mlops.store.versions import insert_version
from tests.postgres import WITHOUT, Server, shared_server

NOW = datetime(2025, 1, 1, tzinfo=UTC)
SERVICE = "sample.btc-usd.1h.volatility.24"
DATABASES = ("sqlite", "postgres")
_MIGRATED, _MIGRATING = "migrated", "migrating"


def start_postgres(root: Path) -> Iterator[Server]:
    """The body of the session's `postgres` fixture: the server, with a migrated database."""
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    with shared_server(root) as server:
        with server.alone("migrate"):
            known = server.run("SELECT 1 FROM pg_database WHERE datname = %s", _MIGRATED)
            if not known:
                server.create(_MIGRATING)
                open_store(server.url(_MIGRATING)).close()
                server.run(f"ALTER DATABASE {_MIGRATING} RENAME TO {_MIGRATED}")
        yield server


def make_sqlite_template(folder: Path) -> Path:
    """The body of the session's `sqlite_template` fixture: a migrated, empty file."""
    path = folder / "store.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database in which nothing was created yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        with new_database(request.getfixturevalue("postgres"), "template0") as made:
            yield made


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with every table and no row."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        yield f"sqlite:///{shutil.copy(template, tmp_path)}"
    else:
        with new_database(request.getfixturevalue("postgres"), _MIGRATED) as made:
            yield made


@contextmanager
def new_database(server: Server, template: str = "template0") -> Iterator[str]:
    """The URL of a database of its own, dropped when the block ends; by default an empty one."""
    name = f"test_{uuid.uuid4().hex}"
    server.create(name, template=template)
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open store with no row."""
    with closing(open_store(url)) as opened:
        yield opened


@pytest.fixture
def add(store: Store) -> Callable[..., ModelVersion]:
    """Put a version into the store; every field can be given."""

    def insert(model_id: str = "persistence_BTC_1", number: int = 1, **changes: object):
        values: dict[str, object] = {
            "model_id": model_id,
            "service": SERVICE,
            "mlflow_version": number,
            "run_id": "run",
            "model_type": "persistence",
            "symbol": "BTC/USD",
            "status": Status.DEPLOYED,
            "digest": "d" * 64,
            "bundle_uri": "file:///bundle",
            "watermark": "w" * 64,
            "trained_until": NOW,
            "recipe_digest": "r" * 64,
            "claims_only": False,
            "code_version": "0.1.0",
            "created_at": NOW,
        }
        row = ModelVersion(**(values | changes))  # type: ignore[arg-type]
        with store.write() as connection:
            insert_version(connection, row, Why(NOW))
        return row

    return insert


@pytest.fixture
def began(store: Store, add: Callable[..., ModelVersion]) -> Store:
    """A store whose one service has begun on its baseline."""
    baseline = add()
    with store.write() as connection:
        begin_route(connection, SERVICE, baseline.model_id, Why(NOW))
    return store
