"""The one SQL store: what exists, what is live, what was counted, who changed it."""

from mlops.store.audit import AuditEntry, Why, history
from mlops.store.engine import Store, open_store
from mlops.store.ledger import alpha_for_refit, count_trials, record_trials, spend_alpha
from mlops.store.live import Route, get_route, list_routes
from mlops.store.schema import Status
from mlops.store.versions import ModelVersion, get_version, list_versions

__all__ = [
    "AuditEntry",
    "ModelVersion",
    "Route",
    "Status",
    "Store",
    "Why",
    "alpha_for_refit",
    "count_trials",
    "get_route",
    "get_version",
    "history",
    "list_routes",
    "list_versions",
    "open_store",
    "record_trials",
    "spend_alpha",
]
