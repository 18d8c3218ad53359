"""Rollouts, leases, replicas, their evidence, and forecasts of record.

A route learns of a challenger; its earlier generations become a history that can be asked who
was live when. On Postgres the append-only tables get the guards SQLite had from the start.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_PHASES = (
    "pending", "loading", "gate", "step", "promoted", "reverted", "rollback", "done", "failed",
)  # fmt: skip
_OPEN = "phase NOT IN ('done', 'failed')"
_RECORD = "role = 'record'"
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
    _route()
    _route_history()
    _lease()
    _rollout()
    _replica()
    _evidence()
    _forecast()
    _guard()


def _route() -> None:
    with op.batch_alter_table("route") as table:
        table.add_column(sa.Column("challenger", sa.String(200)))
        table.add_column(sa.Column("weight_bp", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("mirror_bp", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("salt", sa.String(64), nullable=False, server_default=""))
        table.add_column(sa.Column("only_replicas", sa.Text))
        table.add_column(sa.Column("valid_until", sa.Float))
        table.create_foreign_key("route_challenger", "version", ["challenger"], ["model_id"])
        table.create_check_constraint("weight_is_a_share", "weight_bp BETWEEN 0 AND 10000")
        table.create_check_constraint("mirror_is_a_share", "mirror_bp BETWEEN 0 AND 10000")
        table.create_check_constraint(
            "no_weight_on_nothing", "challenger IS NOT NULL OR (weight_bp = 0 AND mirror_bp = 0)"
        )
        table.create_check_constraint("a_challenger_is_another", "challenger <> champion")


def _route_history() -> None:
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
    op.execute(
        "INSERT INTO route_history (service, generation, at, champion, previous_champion, "
        "challenger, weight_bp, action, actor, reason) SELECT service, generation, updated_at, "
        "champion, previous_champion, NULL, 0, 'begin_service', 'system', "
        "'live before the history began' FROM route"
    )


def _lease() -> None:
    op.create_table(
        "lease",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("term", sa.Integer, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )


def _rollout() -> None:
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
    _unique_where("one_open_rollout", "rollout", ["service"], _OPEN)
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


def _replica() -> None:
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
    owner = sa.ForeignKey("replica.id", ondelete="CASCADE")
    op.create_table(
        "replica_route",
        sa.Column("replica_id", sa.String(100), owner, primary_key=True),
        sa.Column("service", sa.String(200), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
    )
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


def _evidence() -> None:
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


def _forecast() -> None:
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
    _unique_where("one_forecast_of_record", "forecast", ["service", "bar"], _RECORD)


def _unique_where(name: str, table: str, columns: list[str], where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, unique=True, sqlite_where=clause, postgresql_where=clause)


def _guard() -> None:
    new = ("route_history", "rollout_event")
    if op.get_bind().dialect.name == "sqlite":
        for table in new:
            for verb in ("UPDATE", "DELETE"):
                op.execute(_SQLITE_GUARD.format(table=table, verb=verb))
    else:
        op.execute(_POSTGRES_FUNCTION)
        for table in ("audit", "ledger", *new):
            op.execute(_POSTGRES_GUARD.format(table=table))
