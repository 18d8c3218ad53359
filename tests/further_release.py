"""A release that is one migration further than the code: what its processes do to a store.

The migration is made in a folder of the test, so the package has never heard of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlops.store import migrations

FURTHER = f"{int(migrations.HEAD) + 1:04}"
_MIGRATION = f'''\
"""Adds a table, a column with a default, one without, and an index."""

import sqlalchemy as sa
from alembic import op

revision = "{FURTHER}"
down_revision = "{migrations.HEAD}"

STATEMENTS = (
    "CREATE TABLE further (id INTEGER PRIMARY KEY)",
    "ALTER TABLE route ADD COLUMN further INTEGER NOT NULL DEFAULT 7",
    "ALTER TABLE replica ADD COLUMN further VARCHAR(16)",
    "CREATE INDEX further_by_state ON replica (state)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().execute(sa.text(statement))
'''


def write_further_migrations(folder: Path) -> Path:
    """Copy the package's migrations into a new folder, and add one."""
    package = Path(migrations.__file__).parent
    copied = Path(shutil.copytree(package, folder / "migrations"))
    name = f"m{FURTHER}_further.py"
    (copied / "versions" / name).write_text(_MIGRATION)
    return copied


@contextmanager
def further_release(
    folder: Path, min_reader: str = migrations.MIN_READER
) -> Iterator[pytest.MonkeyPatch]:
    """Be the further release for as long as the block lasts.

    Args:
        folder: Holds the migrations; made before, or by this call.
        min_reader: The oldest revision whose code may open the store that it migrates.
    """
    copied = folder / "migrations"
    if not copied.exists():
        write_further_migrations(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "_HERE", copied)
        patch.setattr(migrations, "HEAD", FURTHER)
        patch.setattr(migrations, "MIN_READER", min_reader)
        yield patch
