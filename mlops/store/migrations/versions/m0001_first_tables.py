"""Versions, routes, the ledger and the audit trail.

Written out, not taken from `mlops.store.schema`: a migration must go on meaning what it meant
when the schema has moved on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_STATUSES = ("training", "refused", "challenger", "deployed", "retired", "failed")
_APPEND_ONLY = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""


def upgrade() -> None:
    _version()
    _route()
    _ledger()
    _audit()
    if op.get_bind().dialect.name == "sqlite":
        for table in ("audit", "ledger"):
            for verb in ("UPDATE", "DELETE"):
                op.execute(_APPEND_ONLY.format(table=table, verb=verb))


def _version() -> None:
    op.create_table(
        "version",
        sa.Column("model_id", sa.String(200), primary_key=True),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("mlflow_version", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("model_type", sa.String(64), nullable=False),
        sa.Column("symbol", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("bundle_uri", sa.Text, nullable=False),
        sa.Column("watermark", sa.String(64), nullable=False),
        sa.Column("trained_until", sa.DateTime),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("claims_only", sa.Boolean, nullable=False),
        sa.Column("report", sa.Text),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("code_version", sa.String(200), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("service", "mlflow_version", name="one_row_per_mlflow_version"),
        sa.CheckConstraint(
            "status IN ({})".format(", ".join(f"'{status}'" for status in _STATUSES)),
            name="known_status",
        ),
    )
    op.create_index("version_by_service", "version", ["service", "status"])
    op.create_index("version_by_kind", "version", ["model_type", "symbol"])


def _route() -> None:
    op.create_table(
        "route",
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("champion", sa.String(200), sa.ForeignKey("version.model_id"), nullable=False),
        sa.Column("previous_champion", sa.String(200), sa.ForeignKey("version.model_id")),
        sa.Column("baseline", sa.String(200), sa.ForeignKey("version.model_id"), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
    )


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("key", sa.String(300), nullable=False),
        sa.Column("study", sa.String(200)),
        sa.Column("number", sa.Integer),
        sa.Column("watermark", sa.String(64)),
        sa.Column("recipe_digest", sa.String(64)),
        sa.Column("alpha_spent", sa.Float, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("service", "kind", "key", name="counted_once"),
    )
    op.create_index("ledger_by_time", "ledger", ["service", "kind", "at"])


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
    )
    op.create_index("audit_by_subject", "audit", ["service", "subject", "id"])
