"""The SQL store: versions, routes, rollouts, counts, outcomes, alerts and the audit log."""

from mlops.store.ab_tests import (
    AbLook,
    AbTest,
    ForecastGap,
    GapReason,
    get_test,
    list_gaps,
    list_looks,
    list_tests,
    record_gaps,
)
from mlops.store.audit import AuditEntry, Why, list_audit_entries
from mlops.store.engine import Store, open_store
from mlops.store.forecasts import ForecastRow, list_forecasts
from mlops.store.ledger import alpha_for_refit, count_trials, record_trials, spend_alpha
from mlops.store.replicas import Replica, list_replicas
from mlops.store.rollouts import Rollout, RolloutEvent, get_rollout, list_events, list_rollouts
from mlops.store.routes import LivePeriod, Route, get_route, list_live_periods, list_routes, live_at
from mlops.store.schema import AbState, Phase, Status, Verdict
from mlops.store.versions import ModelVersion, get_version, list_versions

__all__ = [
    "AbLook",
    "AbState",
    "AbTest",
    "AuditEntry",
    "ForecastGap",
    "ForecastRow",
    "GapReason",
    "LivePeriod",
    "ModelVersion",
    "Phase",
    "Replica",
    "Rollout",
    "RolloutEvent",
    "Route",
    "Status",
    "Store",
    "Verdict",
    "Why",
    "alpha_for_refit",
    "count_trials",
    "get_rollout",
    "get_route",
    "get_test",
    "get_version",
    "list_audit_entries",
    "list_events",
    "list_forecasts",
    "list_gaps",
    "list_live_periods",
    "list_looks",
    "list_replicas",
    "list_rollouts",
    "list_routes",
    "list_tests",
    "list_versions",
    "live_at",
    "open_store",
    "record_gaps",
    "record_trials",
    "spend_alpha",
]
