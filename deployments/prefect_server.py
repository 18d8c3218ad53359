"""The Prefect server of an installation: its database, its environment and its process."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from deployments.prefect_retention import vacuum_environment
from deployments.processes import ServerProcess
from mlops.settings import Settings

CONNECTION_URLS = (
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
)
"""The names by which Prefect reads the address of a server's database."""

EMPTY_DATABASE = Path(sys.prefix) / "prefect" / "prefect.db"
"""Migrated and empty; `make install` makes it, because that takes a server ten seconds."""


def copy_empty_database(home: Path) -> None:
    """Give a server without a database the one that `make install` has made.

    Args:
        home: The server's PREFECT_HOME.
    """
    home.mkdir(parents=True, exist_ok=True)
    if EMPTY_DATABASE.exists() and not (home / "prefect.db").exists():
        shutil.copy(EMPTY_DATABASE, home / "prefect.db.new")
        (home / "prefect.db.new").rename(home / "prefect.db")


def name_database(home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The variable that names a server's database where its home has a ``?``; else nothing.

    Prefect puts its home into a URL as it is, of which only what is before a ``?`` would count.

    Args:
        home: The server's PREFECT_HOME.
        given: The environment; a database that it names is kept.
    """
    if "?" not in str(home.absolute()) or not given.keys().isdisjoint(CONNECTION_URLS):
        return {}
    uri = (home.absolute() / "prefect.db").as_uri()
    return {CONNECTION_URLS[0]: f"sqlite+aiosqlite:///{uri}?uri=true"}


def make_environment(home: Path, settings: Settings) -> dict[str, str]:
    """Variables of the server alone; commands and flow runs do not need them."""
    is_migrated = read_revision(home / "prefect.db") == read_revision(EMPTY_DATABASE) != ""
    return {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        **vacuum_environment(settings),
        # A start with nothing to migrate is a second shorter without looking.
        **({"PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false"} if is_migrated else {}),
    }


def read_revision(database: Path) -> str:
    """The revision that a server's SQLite database was migrated to; empty where it has none."""
    if not database.exists():
        return ""
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        try:
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except (sqlite3.Error, TypeError):
            return ""
        return str(revision)


def make_server(home: Path, port: int, settings: Settings) -> ServerProcess:
    """The server, not started yet; it listens on loopback only."""
    host = "127.0.0.1"
    return ServerProcess(
        "prefect-server",
        [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)],
        f"http://{host}:{port}/api/health",
        environment=make_environment(home, settings),
    )
