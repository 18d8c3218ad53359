"""Alerts, the notices of each, and what became of them on each channel."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_LASTING = "recovered_at IS NULL"


def upgrade() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(500), nullable=False),
        sa.Column("condition", sa.String(32), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("raised_at", sa.DateTime, nullable=False),
        sa.Column("last_seen_at", sa.DateTime, nullable=False),
        sa.Column("told_at", sa.DateTime, nullable=False),
        sa.Column("times_seen", sa.Integer, nullable=False),
        sa.Column("recovered_at", sa.DateTime),
    )
    op.create_index(
        "one_lasting_alert",
        "alert",
        ["key"],
        unique=True,
        sqlite_where=sa.text(_LASTING),
        postgresql_where=sa.text(_LASTING),
    )
    op.create_index("alert_by_service", "alert", ["service", "raised_at"])
    op.create_table(
        "alert_notice",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("alert_id", sa.String(64), sa.ForeignKey("alert.id"), nullable=False),
        sa.Column("occasion", sa.String(16), nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("written_at", sa.Float, nullable=False),
    )
    op.create_index("notice_by_alert", "alert_notice", ["alert_id"])
    op.create_index("notice_by_time", "alert_notice", ["written_at"])
    op.create_table(
        "alert_delivery",
        sa.Column("notice_id", sa.Integer, sa.ForeignKey("alert_notice.id"), primary_key=True),
        sa.Column("channel", sa.String(200), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.Float, nullable=False),
        sa.Column("claimed_until", sa.Float, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("message", sa.String(64)),
        sa.Column("sent_at", sa.Float),
    )
    op.create_index("delivery_by_channel", "alert_delivery", ["channel", "state"])
