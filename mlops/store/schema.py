"""The tables of the store.

Times are market or wall time in UTC: stored naive, returned aware. JSON is stored as text because
no query looks inside it and because a metric may be NaN, which JSON columns refuse.
"""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from mlops.store.column_types import JsonText, UtcTime, check_columns

SHA256_HEX = 64


class Status(StrEnum):
    """The status of a version."""

    TRAINING = "training"
    REFUSED = "refused"
    CHALLENGER = "challenger"
    DEPLOYED = "deployed"
    RETIRED = "retired"
    FAILED = "failed"


class Phase(StrEnum):
    """The phase of a rollout; `mlops.rollout.decide` has the transitions."""

    WAITING = "waiting"
    PENDING = "pending"
    LOADING = "loading"
    GATE = "gate"
    STEP = "step"
    PROMOTED = "promoted"
    REVERTED = "reverted"
    ROLLBACK = "rollback"
    DONE = "done"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the rollout has ended."""
        return self in (Phase.DONE, Phase.FAILED)


class Verdict(StrEnum):
    """How an A/B test ended; better and worse are said of the challenger."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    STOPPED = "stopped"


class AbState(StrEnum):
    """Whether an A/B test has its verdict."""

    RUNNING = "running"
    CONCLUDED = "concluded"


class OperationStatus(StrEnum):
    """How far the work of a request is that is answered later."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


OPEN = "phase NOT IN ('waiting', 'done', 'failed')"
"""SQL condition: the rollout has begun or is about to, and has not ended."""

WAITING = "phase = 'waiting'"
"""SQL condition: the rollout waits until the service's open rollout has ended."""


RUNNING = "state = 'running'"
"""SQL condition: the A/B test has no verdict."""


def _one_of(column: str, words: type[StrEnum]) -> str:
    return "{} IN ({})".format(column, ", ".join(f"'{word}'" for word in words))


metadata = sa.MetaData()

installation = sa.Table(
    "installation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("uuid", sa.String(36), nullable=False),
    sa.Column("key_fingerprints", JsonText, nullable=False),
    sa.Column("min_reader", sa.String(16), nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)

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
    sa.Column("bundle_removed_at", UtcTime),
    sa.Column("request_key", sa.String(200)),
    sa.Column("request_digest", sa.String(SHA256_HEX)),
    sa.Column("judged_on", JsonText),
    sa.UniqueConstraint("service", "mlflow_version", name="one_row_per_mlflow_version"),
    sa.CheckConstraint(_one_of("status", Status), name="known_status"),
    sa.Index("version_by_service", "service", "status"),
    sa.Index("version_by_kind", "model_type", "symbol"),
    sa.Index("version_by_time", "created_at", "model_id"),
    sa.Index("one_version_a_request", "request_key", unique=True),
)

route = sa.Table(
    "route",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("champion", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("previous_champion", sa.ForeignKey("version.model_id")),
    sa.Column("baseline", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("challenger", sa.ForeignKey("version.model_id")),
    sa.Column("weight_bp", sa.Integer, nullable=False),
    sa.Column("mirror_bp", sa.Integer, nullable=False),
    sa.Column("salt", sa.String(64), nullable=False),
    sa.Column("only_replicas", JsonText),
    sa.Column("valid_until", sa.Float),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("retired_at", UtcTime),
    sa.CheckConstraint("weight_bp BETWEEN 0 AND 10000", name="weight_is_a_share"),
    sa.CheckConstraint("mirror_bp BETWEEN 0 AND 10000", name="mirror_is_a_share"),
    sa.CheckConstraint(
        "challenger IS NOT NULL OR (weight_bp = 0 AND mirror_bp = 0)", name="no_weight_on_nothing"
    ),
    sa.CheckConstraint("challenger <> champion", name="a_challenger_is_another"),
)

route_history = sa.Table(
    "route_history",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("champion", sa.String(200), nullable=False),
    sa.Column("previous_champion", sa.String(200)),
    sa.Column("challenger", sa.String(200)),
    sa.Column("weight_bp", sa.Integer, nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("route_history_by_time", "service", "at"),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("term", sa.Integer, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float),
)

rollout = sa.Table(
    "rollout",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("strategy", sa.String(16), nullable=False),
    sa.Column("from_version", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("to_version", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("plan", JsonText, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("deadline", UtcTime, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("abort_requested", sa.Text),
    sa.Column("forced", sa.Boolean, nullable=False),
    sa.Column("requested_by", sa.String(200), nullable=False),
    sa.Column("requested_why", sa.Text, nullable=False),
    sa.Column("requested_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("request_key", sa.String(200)),
    sa.Column("request_digest", sa.String(SHA256_HEX)),
    sa.CheckConstraint(_one_of("phase", Phase), name="known_phase"),
    sa.CheckConstraint("from_version <> to_version", name="rolls_out_another"),
    sa.Index(
        "one_open_rollout",
        "service",
        unique=True,
        sqlite_where=sa.text(OPEN),
        postgresql_where=sa.text(OPEN),
    ),
    sa.Index(
        "one_waiting_rollout",
        "service",
        unique=True,
        sqlite_where=sa.text(WAITING),
        postgresql_where=sa.text(WAITING),
    ),
    sa.Index("rollout_by_service", "service", "requested_at"),
    sa.Index("rollout_by_time", "requested_at", "id"),
    sa.Index("one_rollout_a_request", "request_key", unique=True),
)

rollout_event = sa.Table(
    "rollout_event",
    metadata,
    sa.Column("rollout_id", sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("from_phase", sa.String(16)),
    sa.Column("to_phase", sa.String(16), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("term", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", JsonText, nullable=False),
)

replica = sa.Table(
    "replica",
    metadata,
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("incarnation", sa.String(64), nullable=False),
    sa.Column("address", sa.String(200), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("lease_until", sa.Float, nullable=False),
    sa.Column("build", sa.String(200), nullable=False),
    sa.Column("memory_free", sa.BigInteger),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("lease_s", sa.Float),
)

replica_route = sa.Table(
    "replica_route",
    metadata,
    sa.Column("replica_id", sa.ForeignKey("replica.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
)

replica_model = sa.Table(
    "replica_model",
    metadata,
    sa.Column("replica_id", sa.ForeignKey("replica.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("model_id", sa.String(200), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(SHA256_HEX), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("load_ms", sa.Float, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("inflight", sa.Integer, nullable=False),
    sa.Column("cause", sa.String(16)),
)

evidence = sa.Table(
    "evidence",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("source", sa.String(16), primary_key=True),
    sa.Column("replica_id", sa.String(100), primary_key=True),
    sa.Column("incarnation", sa.String(64), primary_key=True),
    sa.Column("weight_bp", sa.Integer, nullable=False),
    sa.Column("champion_trials", sa.Integer, nullable=False),
    sa.Column("champion_faults", sa.Integer, nullable=False),
    sa.Column("challenger_trials", sa.Integer, nullable=False),
    sa.Column("challenger_faults", sa.Integer, nullable=False),
    sa.Column("detail", JsonText, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("model_id", sa.String(200), primary_key=True),
    sa.Column("replica_id", sa.String(100), primary_key=True),
    sa.Column("incarnation", sa.String(64), primary_key=True),
    sa.Column("hour", UtcTime, primary_key=True),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("faults", sa.Integer, nullable=False),
    sa.Column("turned_away", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("latencies", JsonText, nullable=False),
    sa.Index("traffic_by_hour", "hour"),
)

forecast = sa.Table(
    "forecast",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("bar", UtcTime, primary_key=True),
    sa.Column("model_id", sa.String(200), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("low", sa.Float),
    sa.Column("high", sa.Float),
    sa.Column("made_at", UtcTime, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("replica_id", sa.String(100), nullable=False),
    sa.Column("bars_digest", sa.String(SHA256_HEX), nullable=False),
    sa.Index(
        "one_forecast_of_record",
        "service",
        "bar",
        unique=True,
        sqlite_where=sa.text("role = 'record'"),
        postgresql_where=sa.text("role = 'record'"),
    ),
)

outcome = sa.Table(
    "outcome",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("bar", UtcTime, primary_key=True),
    sa.Column("known_at", UtcTime),
    sa.Column("value", sa.Float),
    sa.Column("first_value", sa.Float),
    sa.Column("persistence", sa.Float),
    sa.Column("baseline", sa.Float),
    sa.Column("next_return", sa.Float),
    sa.Column("revisions", sa.Integer, nullable=False),
    sa.Column("matched_at", UtcTime),
    sa.Column("revised_at", UtcTime),
    sa.Column("missing_at", UtcTime),
    sa.CheckConstraint("value IS NOT NULL OR missing_at IS NOT NULL", name="known_or_missing"),
)

ab_test = sa.Table(
    "ab_test",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("champion_id", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("challenger_id", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("champion_is", sa.String(1), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("split_bp", sa.Integer, nullable=False),
    sa.Column("alpha", sa.Float, nullable=False),
    sa.Column("since_bar", UtcTime, nullable=False),
    sa.Column("min_until_bar", UtcTime, nullable=False),
    sa.Column("until_bar", UtcTime, nullable=False),
    sa.Column("record", JsonText),
    sa.Column("promote", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("verdict", sa.String(16)),
    sa.Column("verdict_text", sa.Text),
    sa.Column("rollout_id", sa.ForeignKey("rollout.id"), nullable=False),
    sa.Column("request_key", sa.String(200)),
    sa.Column("requested_by", sa.String(200), nullable=False),
    sa.Column("requested_why", sa.Text, nullable=False),
    sa.Column("requested_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("request_digest", sa.String(SHA256_HEX)),
    sa.UniqueConstraint("rollout_id", name="one_test_a_rollout"),
    sa.UniqueConstraint("request_key", name="one_test_a_request"),
    sa.CheckConstraint(_one_of("state", AbState), name="known_state"),
    sa.CheckConstraint(_one_of("verdict", Verdict), name="known_verdict"),
    sa.CheckConstraint("champion_is IN ('a', 'b')", name="known_name"),
    sa.CheckConstraint("split_bp BETWEEN 0 AND 9500", name="split_is_a_share"),
    sa.CheckConstraint("alpha > 0 AND alpha < 1", name="alpha_is_a_probability"),
    sa.CheckConstraint("champion_id <> challenger_id", name="tests_another"),
    sa.CheckConstraint(
        "(state = 'running') = (verdict IS NULL) AND (verdict IS NULL) = (ended_at IS NULL)",
        name="concluded_by_a_verdict",
    ),
    sa.Index(
        "one_running_test",
        "service",
        unique=True,
        sqlite_where=sa.text(RUNNING),
        postgresql_where=sa.text(RUNNING),
    ),
    sa.Index("ab_test_by_service", "service", "requested_at"),
    sa.Index("ab_test_by_time", "requested_at", "id"),
)

ab_look = sa.Table(
    "ab_look",
    metadata,
    sa.Column("test_id", sa.ForeignKey("ab_test.id"), primary_key=True),
    sa.Column("bar", UtcTime, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("pairs", sa.Integer, nullable=False),
    sa.Column("mean", sa.Float),
    sa.Column("variance", sa.Float),
    sa.Column("variance_source", sa.String(16)),
    sa.Column("standard_error", sa.Float),
    sa.Column("z", sa.Float),
    sa.Column("low", sa.Float),
    sa.Column("high", sa.Float),
    sa.Column("relative_low", sa.Float),
    sa.Column("relative_high", sa.Float),
    sa.Column("p", sa.Float, nullable=False),
    sa.Column("holes", sa.Integer, nullable=False),
    sa.Column("missing", JsonText, nullable=False),
    sa.Column("dealt", JsonText, nullable=False),
    sa.Column("word", sa.String(16)),
    sa.Column("detail", JsonText, nullable=False),
    sa.Column("digest", sa.String(SHA256_HEX), nullable=False),
)

forecast_gap = sa.Table(
    "forecast_gap",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("bar", UtcTime, primary_key=True),
    sa.Column("model_id", sa.String(200), primary_key=True),
    sa.Column("reason", sa.String(16), nullable=False),
    sa.Column("replica_id", sa.String(100), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
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

LASTING = "recovered_at IS NULL"
"""SQL condition: the alert has not ended."""

alert = sa.Table(
    "alert",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(500), nullable=False),
    sa.Column("condition", sa.String(32), nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("detail", JsonText, nullable=False),
    sa.Column("raised_at", UtcTime, nullable=False),
    sa.Column("last_seen_at", UtcTime, nullable=False),
    sa.Column("told_at", UtcTime, nullable=False),
    sa.Column("times_seen", sa.Integer, nullable=False),
    sa.Column("recovered_at", UtcTime),
    sa.Index(
        "one_lasting_alert",
        "key",
        unique=True,
        sqlite_where=sa.text(LASTING),
        postgresql_where=sa.text(LASTING),
    ),
    sa.Index("alert_by_service", "service", "raised_at"),
    sa.Index("alert_by_time", "raised_at", "id"),
)

alert_notice = sa.Table(
    "alert_notice",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("alert_id", sa.ForeignKey("alert.id"), nullable=False),
    sa.Column("occasion", sa.String(16), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("written_at", sa.Float, nullable=False),
    sa.Index("notice_by_alert", "alert_id"),
    sa.Index("notice_by_time", "written_at"),
)

alert_delivery = sa.Table(
    "alert_delivery",
    metadata,
    sa.Column("notice_id", sa.ForeignKey("alert_notice.id"), primary_key=True),
    sa.Column("channel", sa.String(200), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.Float, nullable=False),
    sa.Column("claimed_until", sa.Float, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("message", sa.String(64)),
    sa.Column("sent_at", sa.Float),
    sa.Index("delivery_by_channel", "channel", "state"),
)

trigger = sa.Table(
    "training_trigger",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("cause", sa.String(16), nullable=False),
    sa.Column("watermark", sa.String(100), nullable=False),
    sa.Column("champion", sa.String(200), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("verdict", sa.String(64)),
    sa.Column("detail", JsonText, nullable=False),
    sa.Column("raised_at", UtcTime, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("claim", sa.String(64)),
    sa.Column("claimed_by", sa.String(200)),
    sa.Column("claimed_at", UtcTime),
    sa.Column("claimed_until", sa.Float),
    sa.Column("answer", sa.String(16)),
    sa.Column("model_id", sa.String(200)),
    sa.Column("answered_at", UtcTime),
    sa.Column("not_before", UtcTime),
    sa.UniqueConstraint("service", "cause", "watermark", name="one_trigger_per_watermark"),
    sa.Index("trigger_by_state", "state", "service"),
    sa.Index("trigger_by_time", "raised_at", "id"),
)

check = sa.Table(
    "drift_check",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("model_id", sa.String(200), nullable=False),
    sa.Column("bar", UtcTime, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("recommendation", sa.String(32), nullable=False),
    sa.Column("official", sa.Boolean, nullable=False),
    sa.Column("report", JsonText, nullable=False),
    sa.Column("performance", JsonText),
    sa.Column("state", JsonText, nullable=False),
    sa.Column("bars", JsonText),
    sa.UniqueConstraint("service", "model_id", "bar", name="one_check_a_bar"),
    sa.Index("check_by_time", "at", "id"),
)

WATCHED = "stopped_at IS NULL"
"""SQL condition: the watch has not been stopped."""

watch = sa.Table(
    "watch",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("service", sa.String(200), nullable=False),
    sa.Column("model_id", sa.ForeignKey("version.model_id"), nullable=False),
    sa.Column("interval_hours", sa.Float, nullable=False),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("started_by", sa.String(200), nullable=False),
    sa.Column("stopped_at", UtcTime),
    sa.Column("stopped_by", sa.String(200)),
    sa.Index(
        "one_watch_a_version",
        "model_id",
        unique=True,
        sqlite_where=sa.text(WATCHED),
        postgresql_where=sa.text(WATCHED),
    ),
)

bar_file = sa.Table(
    "bar_file",
    metadata,
    sa.Column("id", sa.String(SHA256_HEX), primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("digest", sa.String(SHA256_HEX), nullable=False),
    sa.Column("bars", sa.Integer, nullable=False),
    sa.Column("last_close", UtcTime, nullable=False),
    sa.Column("chunks", JsonText, nullable=False),
    sa.Column("found", JsonText, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("modified_ns", sa.BigInteger, nullable=False),
    sa.Column("read_at", UtcTime, nullable=False),
)

bar_chunk = sa.Table(
    "bar_chunk",
    metadata,
    sa.Column("file", sa.ForeignKey("bar_file.id"), primary_key=True),
    sa.Column("digest", sa.String(SHA256_HEX), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

market = sa.Table(
    "market",
    metadata,
    sa.Column("service", sa.String(200), primary_key=True),
    sa.Column("choice", JsonText, nullable=False),
    sa.Column("file", sa.ForeignKey("bar_file.id")),
    sa.Column("since", UtcTime, nullable=False),
)

operation = sa.Table(
    "operation",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("request_key", sa.String(200)),
    sa.Column("request_digest", sa.String(SHA256_HEX)),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("holder", sa.String(200)),
    sa.Column("held_until", sa.Float),
    sa.Column("result", JsonText),
    sa.Column("problem", JsonText),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("started_at", UtcTime),
    sa.Column("ended_at", UtcTime),
    sa.UniqueConstraint("request_key", name="one_operation_a_request"),
    sa.CheckConstraint(_one_of("status", OperationStatus), name="known_operation_status"),
    sa.CheckConstraint(
        "(status IN ('done', 'failed')) = (ended_at IS NOT NULL)", name="operation_ends_once"
    ),
    sa.Index("operation_by_time", "created_at", "id"),
)

check_columns(metadata)
