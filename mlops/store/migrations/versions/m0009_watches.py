"""Versions that are watched because somebody said so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_WATCHED = "stopped_at IS NULL"


def upgrade() -> None:
    op.create_table(
        "watch",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("model_id", sa.String(200), sa.ForeignKey("version.model_id"), nullable=False),
        sa.Column("interval_hours", sa.Float, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
        sa.Column("started_by", sa.String(200), nullable=False),
        sa.Column("stopped_at", sa.DateTime),
        sa.Column("stopped_by", sa.String(200)),
    )
    op.create_index(
        "one_watch_a_version",
        "watch",
        ["model_id"],
        unique=True,
        sqlite_where=sa.text(_WATCHED),
        postgresql_where=sa.text(_WATCHED),
    )
