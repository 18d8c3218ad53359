"""Requests that can be repeated, operations that answer later, and lists by time.

Version, rollout and A/B test remember the key of the request that made them and the digest of what
it asked for, written by the same insert.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from mlops.store.migrations import run_script

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_script(Path(__file__), op.get_bind())
