"""What watching the versions found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "drift_check",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("model_id", sa.String(200), nullable=False),
        sa.Column("bar", sa.DateTime, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("recommendation", sa.String(32), nullable=False),
        sa.Column("official", sa.Boolean, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("performance", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.UniqueConstraint("service", "model_id", "bar", name="one_check_a_bar"),
    )
