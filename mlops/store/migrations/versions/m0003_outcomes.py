"""Outcomes: what became of the bars that were forecast, one row a service and bar."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "outcome",
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("bar", sa.DateTime, primary_key=True),
        sa.Column("known_at", sa.DateTime),
        sa.Column("value", sa.Float),
        sa.Column("first_value", sa.Float),
        sa.Column("persistence", sa.Float),
        sa.Column("baseline", sa.Float),
        sa.Column("next_return", sa.Float),
        sa.Column("revisions", sa.Integer, nullable=False),
        sa.Column("matched_at", sa.DateTime),
        sa.Column("revised_at", sa.DateTime),
        sa.Column("missing_at", sa.DateTime),
        sa.CheckConstraint("value IS NOT NULL OR missing_at IS NOT NULL", name="known_or_missing"),
    )
