"""The Prefect server of an installation: its database, its environment and its process."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from deployments.prefect_retention import vacuum_environment
from deployments.processes import ServerProcess
from mlops.settings import Settings

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
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
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
