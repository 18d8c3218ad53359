"""Versions as MLflow and the store hold them: registered, loaded, compared, explained."""

from mlops.code_version import code_version
from mlops.registry.baseline import baseline_candidate, ensure_service
from mlops.registry.bundles import BundleParts, bundle_parts, verify_bundle, write_bundle
from mlops.registry.claims import claimed_candidate, example_bars, register_claimed
from mlops.registry.comparison import Comparison, Period, compare_versions, evaluate_version
from mlops.registry.connection import (
    Registry,
    load,
    load_version,
    open_registry,
    open_trust,
)
from mlops.registry.fetching import BundleFolders, bundle_folders, fetch_bundle
from mlops.registry.ownership import exclusive_registration, owner_tags
from mlops.registry.reconcile import Reconciled, find_unknown_versions, reconcile
from mlops.registry.registration import Candidate, register
from mlops.registry.tracking import RunLog, Tracking, check_reachable, connect, open_run
from mlops.registry.version_history import Explanation, explain

__all__ = [
    "BundleFolders",
    "BundleParts",
    "Candidate",
    "Comparison",
    "Explanation",
    "Period",
    "Reconciled",
    "Registry",
    "RunLog",
    "Tracking",
    "baseline_candidate",
    "bundle_folders",
    "bundle_parts",
    "check_reachable",
    "claimed_candidate",
    "code_version",
    "compare_versions",
    "connect",
    "ensure_service",
    "evaluate_version",
    "example_bars",
    "exclusive_registration",
    "explain",
    "fetch_bundle",
    "find_unknown_versions",
    "load",
    "load_version",
    "open_registry",
    "open_run",
    "open_trust",
    "owner_tags",
    "reconcile",
    "register",
    "register_claimed",
    "verify_bundle",
    "write_bundle",
]
