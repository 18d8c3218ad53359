"""A/B tests with their looks, and the bars that a version did not forecast, with the reason.

Older code stops at a rollout of strategy `ab_test`, and would end one without ending its test. So
this revision raises `MIN_READER`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from mlops.store.migrations import run_script

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_script(Path(__file__), op.get_bind())
