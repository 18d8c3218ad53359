"""Reasons to retrain, in one queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "training_trigger",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("watermark", sa.String(100), nullable=False),
        sa.Column("champion", sa.String(200), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("verdict", sa.String(64)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("raised_at", sa.DateTime, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("claim", sa.String(64)),
        sa.Column("claimed_by", sa.String(200)),
        sa.Column("claimed_at", sa.DateTime),
        sa.Column("claimed_until", sa.Float),
        sa.Column("answer", sa.String(16)),
        sa.Column("model_id", sa.String(200)),
        sa.Column("answered_at", sa.DateTime),
        sa.UniqueConstraint("service", "cause", "watermark", name="one_trigger_per_watermark"),
    )
    op.create_index("trigger_by_state", "training_trigger", ["state", "service"])
