"""Every table, index and guard of the first release, in one step.

Migrations 0001 to 0009 of the time before it built the same schema, column for column; hence the
number. Written out, not taken from `mlops.store.schema`: a migration must go on meaning what it
meant when the schema has moved on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = None

_STATUSES = ("training", "refused", "challenger", "deployed", "retired", "failed")
_PHASES = (
    "pending", "loading", "gate", "step", "promoted", "reverted", "rollback", "done", "failed",
)  # fmt: skip
_APPEND_ONLY = ("audit", "ledger", "route_history", "rollout_event")
_SQLITE_GUARD = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRES_FUNCTION = """
CREATE FUNCTION mlops_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END
$$
"""  # noqa: E501 - one statement
_POSTGRES_GUARD = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION mlops_append_only()
"""


def upgrade() -> None:
    _create_version()
    _create_route()
    _create_route_history()
    _create_ledger()
    _create_audit()
    _create_lease()
    _create_rollout()
    _create_rollout_event()
    _create_replica()
    _create_replica_route()
    _create_replica_model()
    _create_evidence()
    _create_traffic()
    _create_forecast()
    _create_outcome()
    _create_alert()
    _create_alert_notice()
    _create_alert_delivery()
    _create_training_trigger()
    _create_drift_check()
    _create_watch()
    _guard_append_only_tables()


def _create_version() -> None:
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


def _create_route() -> None:
    version = "version.model_id"
    op.create_table(
        "route",
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("champion", sa.String(200), sa.ForeignKey(version), nullable=False),
        sa.Column("previous_champion", sa.String(200), sa.ForeignKey(version)),
        sa.Column("baseline", sa.String(200), sa.ForeignKey(version), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.Column("challenger", sa.String(200)),
        sa.Column("weight_bp", sa.Integer, nullable=False, server_default="0"),
        sa.Column("mirror_bp", sa.Integer, nullable=False, server_default="0"),
        sa.Column("salt", sa.String(64), nullable=False, server_default=""),
        sa.Column("only_replicas", sa.Text),
        sa.Column("valid_until", sa.Float),
        sa.ForeignKeyConstraint(["challenger"], [version], name="route_challenger"),
        sa.CheckConstraint("weight_bp BETWEEN 0 AND 10000", name="weight_is_a_share"),
        sa.CheckConstraint("mirror_bp BETWEEN 0 AND 10000", name="mirror_is_a_share"),
        sa.CheckConstraint(
            "challenger IS NOT NULL OR (weight_bp = 0 AND mirror_bp = 0)",
            name="no_weight_on_nothing",
        ),
        sa.CheckConstraint("challenger <> champion", name="a_challenger_is_another"),
    )


def _create_route_history() -> None:
    op.create_table(
        "route_history",
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("champion", sa.String(200), nullable=False),
        sa.Column("previous_champion", sa.String(200)),
        sa.Column("challenger", sa.String(200)),
        sa.Column("weight_bp", sa.Integer, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("route_history_by_time", "route_history", ["service", "at"])


def _create_ledger() -> None:
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


def _create_audit() -> None:
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


def _create_lease() -> None:
    op.create_table(
        "lease",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("term", sa.Integer, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )


def _create_rollout() -> None:
    version = "version.model_id"
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("service", sa.String(200), nullable=False),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("from_version", sa.String(200), sa.ForeignKey(version), nullable=False),
        sa.Column("to_version", sa.String(200), sa.ForeignKey(version), nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
        sa.Column("deadline", sa.DateTime, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("abort_requested", sa.Text),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("requested_by", sa.String(200), nullable=False),
        sa.Column("requested_why", sa.Text, nullable=False),
        sa.Column("requested_at", sa.DateTime, nullable=False),
        sa.Column("ended_at", sa.DateTime),
        sa.CheckConstraint(
            "phase IN ({})".format(", ".join(f"'{phase}'" for phase in _PHASES)),
            name="known_phase",
        ),
        sa.CheckConstraint("from_version <> to_version", name="rolls_out_another"),
    )
    op.create_index("rollout_by_service", "rollout", ["service", "requested_at"])
    _create_unique_index(
        "one_open_rollout", "rollout", ["service"], "phase NOT IN ('done', 'failed')"
    )


def _create_rollout_event() -> None:
    op.create_table(
        "rollout_event",
        sa.Column("rollout_id", sa.String(64), sa.ForeignKey("rollout.id"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("from_phase", sa.String(16)),
        sa.Column("to_phase", sa.String(16), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("term", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )


def _create_replica() -> None:
    op.create_table(
        "replica",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("incarnation", sa.String(64), nullable=False),
        sa.Column("address", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.Column("build", sa.String(200), nullable=False),
        sa.Column("memory_free", sa.BigInteger),
        sa.Column("started_at", sa.DateTime, nullable=False),
    )


def _create_replica_route() -> None:
    owner = sa.ForeignKey("replica.id", ondelete="CASCADE")
    op.create_table(
        "replica_route",
        sa.Column("replica_id", sa.String(100), owner, primary_key=True),
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
    )


def _create_replica_model() -> None:
    owner = sa.ForeignKey("replica.id", ondelete="CASCADE")
    op.create_table(
        "replica_model",
        sa.Column("replica_id", sa.String(100), owner, primary_key=True),
        sa.Column("model_id", sa.String(200), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("load_ms", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("inflight", sa.Integer, nullable=False),
    )


def _create_evidence() -> None:
    op.create_table(
        "evidence",
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("scope", sa.String(200), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("source", sa.String(16), primary_key=True),
        sa.Column("replica_id", sa.String(100), primary_key=True),
        sa.Column("incarnation", sa.String(64), primary_key=True),
        sa.Column("weight_bp", sa.Integer, nullable=False),
        sa.Column("champion_trials", sa.Integer, nullable=False),
        sa.Column("champion_faults", sa.Integer, nullable=False),
        sa.Column("challenger_trials", sa.Integer, nullable=False),
        sa.Column("challenger_faults", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )


def _create_traffic() -> None:
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


def _create_forecast() -> None:
    op.create_table(
        "forecast",
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("bar", sa.DateTime, primary_key=True),
        sa.Column("model_id", sa.String(200), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
        sa.Column("made_at", sa.DateTime, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("replica_id", sa.String(100), nullable=False),
        sa.Column("bars_digest", sa.String(64), nullable=False),
    )
    _create_unique_index(
        "one_forecast_of_record", "forecast", ["service", "bar"], "role = 'record'"
    )


def _create_outcome() -> None:
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


def _create_alert() -> None:
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
    _create_unique_index("one_lasting_alert", "alert", ["key"], "recovered_at IS NULL")
    op.create_index("alert_by_service", "alert", ["service", "raised_at"])


def _create_alert_notice() -> None:
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


def _create_alert_delivery() -> None:
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


def _create_training_trigger() -> None:
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
        sa.Column("not_before", sa.DateTime),
        sa.UniqueConstraint("service", "cause", "watermark", name="one_trigger_per_watermark"),
    )
    op.create_index("trigger_by_state", "training_trigger", ["state", "service"])


def _create_drift_check() -> None:
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
        sa.Column("bars", sa.Text),
        sa.UniqueConstraint("service", "model_id", "bar", name="one_check_a_bar"),
    )


def _create_watch() -> None:
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
    _create_unique_index("one_watch_a_version", "watch", ["model_id"], "stopped_at IS NULL")


def _create_unique_index(name: str, table: str, columns: list[str], where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, unique=True, sqlite_where=clause, postgresql_where=clause)


def _guard_append_only_tables() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for verb in ("UPDATE", "DELETE"):
                op.execute(_SQLITE_GUARD.format(table=table, verb=verb))
    else:
        op.execute(_POSTGRES_FUNCTION)
        for table in _APPEND_ONLY:
            op.execute(_POSTGRES_GUARD.format(table=table))
