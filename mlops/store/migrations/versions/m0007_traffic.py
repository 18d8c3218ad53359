"""What versions were asked for, hour by hour, and how complete the bars were at each look."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "traffic",
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("model_id", sa.String(200), primary_key=True),
        sa.Column("replica_id", sa.String(100), primary_key=True),
        sa.Column("incarnation", sa.String(64), primary_key=True),
        sa.Column("hour", sa.DateTime, primary_key=True),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("faults", sa.Integer, nullable=False),
        sa.Column("turned_away", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("latencies", sa.Text, nullable=False),
    )
    op.create_index("traffic_by_hour", "traffic", ["hour"])
    op.add_column("drift_check", sa.Column("bars", sa.Text))
