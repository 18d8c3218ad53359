"""The markets of services, and the bars of files, so that every process has them."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from mlops.store.migrations import run_script

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_script(Path(__file__), op.get_bind())
