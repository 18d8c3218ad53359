"""Registrations that are killed with SIGKILL at named steps, each in a process of its own.

Each process repairs what the one before left, registers for real, and then dies in another
registration, one step later. It prints one JSON line about the death before its own.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.registry import (
    Candidate,
    Registry,
    baseline_candidate,
    open_registry,
    reconcile,
    register,
    registration,
)
from mlops.registry import mirror as mirror_module
from mlops.registry.connection import load
from mlops.service import Service
from mlops.store import Status, Why, list_versions
from mlops.store.routes import aliases
from mlops.store.schema import lease

POINTS = [
    (registration, "_write", "after"),
    (registration, "log_model", "after"),
    (registration, "create_version", "after"),
    (registration, "_verify", "after"),
    (registration, "_commit", "after"),
    (mirror_module, "_mirror_aliases", "before"),
]
SERVICE = Service.of(
    venue="simulator", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
NOW = np.datetime64("2025-01-01T00:00:00").astype("datetime64[us]").item()


def opened(folder: Path) -> Registry:
    return open_registry(
        base_path=folder,
        store_url=f"sqlite:///{folder / 'store.db'}",
        tracking_uri=f"file://{folder / 'mlruns'}",
        experiment="crash",
    )


def dataset() -> Dataset:
    return Dataset(
        simulate_bars(400, seed=1),
        timeframe=SERVICE.timeframe,
        target=TargetSpec(SERVICE.target, SERVICE.horizon),
    )


def candidate() -> Candidate:
    baseline = baseline_candidate(SERVICE, dataset())
    return replace(baseline, status=Status.CHALLENGER, begins_service=False)


def live(folder: str, number: int) -> None:
    """Recover from the death before this one, then die at the point with this number."""
    registry = opened(Path(folder))
    end_lease_of_the_dead(registry)
    if number < len(POINTS):
        # The clean process is proven once, at the end; before, it would only cost seconds.
        registration._verify = lambda *_: None
    if number > 0:
        check(registry, POINTS[number - 1][1])
    if number < len(POINTS):
        module, name, when = POINTS[number]
        arm(module, name, when)
        register(registry, candidate(), why())
        raise AssertionError(f"{name} was never reached")


def end_lease_of_the_dead(registry: Registry) -> None:
    """It would keep the next one waiting for 90 seconds."""
    with registry.store.write() as connection:
        connection.execute(lease.update().values(until=0.0))


def arm(module: Any, name: str, when: str) -> None:
    real = getattr(module, name)

    def deadly(*arguments: Any) -> Any:
        answer = real(*arguments) if when == "after" else None
        os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(module, name, deadly)


def why() -> Why:
    from datetime import UTC

    return Why(NOW.replace(tzinfo=UTC))


def check(registry: Registry, point: str) -> None:
    before = seen(registry)
    changes = reconcile(registry).changes
    after = seen(registry)
    again = reconcile(registry).changes
    row = register(registry, candidate(), why())
    load(registry, row.model_id)
    state = {"before": before, "after": after, "final": seen(registry)}
    print(json.dumps({"point": point, "changes": changes, "again": again, **state}), flush=True)


def seen(registry: Registry) -> dict[str, Any]:
    client, rows = registry.tracking.client, list_versions(registry.store)
    models = client.search_registered_models(f"name = '{SERVICE.key}'")
    versions = client.search_model_versions(f"name = '{SERVICE.key}'")
    logged = client.search_logged_models([registry.tracking.experiment_id])
    runs = client.search_runs([registry.tracking.experiment_id])
    return {
        "rows": sorted(row.mlflow_version for row in rows),
        "versions": sorted(int(version.version) for version in versions),
        "statuses": sorted({version.tags["status"] for version in versions}),
        "logged": len(logged),
        "bundles": len(list((registry.home / "mlruns").rglob("manifest.json"))),
        "staged": registry.staging.exists() and any(registry.staging.iterdir()),
        "running": sum(run.info.status == "RUNNING" for run in runs),
        "aliases": {k: int(v) for model in models for k, v in model.aliases.items()},
        "wanted": aliases(registry.store, SERVICE.key),
    }
