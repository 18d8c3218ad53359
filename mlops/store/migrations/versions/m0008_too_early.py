"""From when on a retraining that came too early may be tried again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("training_trigger", sa.Column("not_before", sa.DateTime))
