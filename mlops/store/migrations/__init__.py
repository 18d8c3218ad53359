"""Brings a database to this release's schema; run from the package, not from a command line.

Several releases may use one store, so a migration only adds: a table, an index, a column that is
nullable or has a default, one more word in a CHECK. A store at a revision that this release does
not know opens without a migration, unless its ``min_reader`` is newer than this release's `HEAD`.

A migration that adds a word which older code would stop at (a phase, a status) raises
`MIN_READER`; or the word is written only once every live replica has a build that knows it.
`MIN_READER` is checked when a store is opened, not later: before such a release migrates the store,
all processes of the older ones are stopped, and its entry in CHANGELOG.md says so.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from mlops.errors import StoreError

VERSION_TABLE = "mlops_schema_version"
HEAD = "0014"
MIN_READER = "0012"
"""The oldest revision whose code may open a store at `HEAD`."""
BEFORE_BASELINE = tuple(f"{number:04}" for number in range(1, 9))
"""Revisions of stores from before the first release; their migrations are no longer here."""
LAST_COMMIT_THAT_MIGRATES_THEM = "9ae3cdf"
_HERE = Path(__file__).parent
_one_at_a_time = threading.Lock()
"""Alembic keeps what it works on in its module: two threads would share it."""


def current_revision(connection: sa.Connection) -> str | None:
    """The revision the database is at, None where it is empty."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def is_readable(connection: sa.Connection, revision: str | None) -> bool:
    """Whether this release may use a store at this revision without migrating it.

    Raises:
        StoreError: when only a newer release may use the store.
    """
    if revision is None or revision <= HEAD:
        return revision == HEAD
    oldest = connection.execute(sa.text("SELECT min_reader FROM installation")).scalar_one()
    if oldest <= HEAD:
        return True
    raise StoreError(
        f"the store is at schema {revision!r}, which needs a release that knows schema {oldest!r}; "
        f"this one knows {HEAD!r} at most: install the release that migrated the store, or a newer"
    )


def run_script(migration: Path, connection: sa.Connection) -> None:
    """Run the SQL file beside a migration, one statement after each blank line."""
    script = migration.with_suffix(f".{connection.dialect.name}.sql")
    for statement in script.read_text(encoding="utf-8").split("\n\n"):
        connection.execute(sa.text(statement))


def upgrade(connection: sa.Connection) -> None:
    """Run every missing migration inside the caller's transaction.

    Raises:
        StoreError: when the database is at a revision that this release does not know, or at one
            from before the baseline migration.
    """
    _refuse_before_baseline(current_revision(connection))
    run_migrations(connection, "head")
    connection.execute(
        sa.text("UPDATE installation SET min_reader = :oldest"), {"oldest": MIN_READER}
    )


def run_migrations(connection: sa.Connection, revision: str) -> None:
    """Run the migrations up to a revision, or up to ``head``.

    Raises:
        StoreError: when the database is at a revision that this release does not know.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _one_at_a_time:
            command.upgrade(config, revision)
    except CommandError as error:
        raise StoreError(
            f"the store is at schema {current_revision(connection)!r}, which this release "
            f"(schema {HEAD!r}) does not know; install the release that wrote it, or a newer one"
        ) from error


def _refuse_before_baseline(revision: str | None) -> None:
    if revision in BEFORE_BASELINE:
        commit = LAST_COMMIT_THAT_MIGRATES_THEM
        raise StoreError(
            f"the store is at schema {revision!r}, which this release cannot migrate: it takes an "
            f"empty database or a store at schema '0009' or later; commit {commit} migrates it: "
            f"back up the database, check out {commit}, open the store once there (python -c "
            "\"from mlops.store import open_store; open_store('<URL of the store>')\"), and come "
            "back to this release"
        )
