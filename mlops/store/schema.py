"""The tables that say what exists, what is live, what was counted and who changed it.

Times are market or wall time in UTC: stored naive, handed out aware. JSON is stored as text
because nothing queries inside it and because a metric may be NaN, which JSON columns refuse.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from mlops.errors import StoreError

SHA256_HEX = 64


class Status(StrEnum):
    """What became of a version."""

    TRAINING = "training"
    REFUSED = "refused"
    CHALLENGER = "challenger"
    DEPLOYED = "deployed"
    RETIRED = "retired"
    FAILED = "failed"


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime in a column without a zone."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise StoreError(f"time {value.isoformat()} has no zone; pass an aware UTC datetime")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class JsonText(sa.types.TypeDecorator[Any]):
    """Any JSON value, kept exactly, NaN included."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


metadata = sa.MetaData()

version = sa.Table(
    "version",
    metadata,
    sa.Column("model_id", sa.String(200), primary_key=True),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("mlflow_version", sa.Integer, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("model_type", sa.String(64), nullable=False),
    sa.Column("symbol", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(SHA256_HEX), nullable=False),
    sa.Column("bundle_uri", sa.Text, nullable=False),
    sa.Column("watermark", sa.String(SHA256_HEX), nullable=False),
    sa.Column("trained_until", UtcTime),
    sa.Column("recipe_digest", sa.String(SHA256_HEX), nullable=False),
    sa.Column("claims_only", sa.Boolean, nullable=False),
    sa.Column("report", JsonText),
    sa.Column("metrics", JsonText, nullable=False),
    sa.Column("notes", JsonText, nullable=False),
    sa.Column("code_version", sa.String(200), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.UniqueConstraint("service", "mlflow_version", name="one_row_per_mlflow_version"),
    sa.CheckConstraint(
        "status IN ({})".format(", ".join(f"'{status}'" for status in Status)),
        name="known_status",
    ),
    sa.Index("version_by_service", "service", "status"),
    sa.Index("version_by_kind", "model_type", "symbol"),
)

route = sa.Table(
    "route",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("champion", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("previous_champion", sa.ForeignKey("version.model_id")),
    sa.Column("baseline", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
)

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("key", sa.String(300), nullable=False),
    sa.Column("study", sa.String(200)),
    sa.Column("number", sa.Integer),
    sa.Column("watermark", sa.String(SHA256_HEX)),
    sa.Column("recipe_digest", sa.String(SHA256_HEX)),
    sa.Column("alpha_spent", sa.Float, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.UniqueConstraint("service", "kind", "key", name="counted_once"),
    sa.Index("ledger_by_time", "service", "kind", "at"),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("before", JsonText),
    sa.Column("after", JsonText),
    sa.Index("audit_by_subject", "service", "subject", "id"),
)
