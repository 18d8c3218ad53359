"""What the verdict on a model from elsewhere rests on."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from mlops.store.migrations import run_script

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_script(Path(__file__), op.get_bind())
