"""Kills registrations with SIGKILL at named steps, each in a process of its own.

Run as a script: each process repairs what the one before left, registers for real, and then
dies in another registration, one step later. Prints one JSON line a death.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.registry import (
    Registry,
    baseline_candidate,
    open_registry,
    reconcile,
    register,
    registration,
)
from mlops.registry import mirror as mirror_module
from mlops.registry.connection import load
from mlops.registry.tracking import _import_quietly
from mlops.service import Service
from mlops.store import Status, Why, list_versions
from mlops.store.routes import aliases
from tests.forked import in_child

POINTS = [
    (registration, "_write", "after"),
    (registration, "log_model", "after"),
    (registration, "create_version", "after"),
    (registration, "_verify", "after"),
    (registration, "_commit", "after"),
    (mirror_module, "_mirror_aliases", "before"),
]
FOLDER, URI = Path(sys.argv[1]), sys.argv[2]
SERVICE = Service.of(
    venue="simulator", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
DATASET = Dataset(
    simulate_bars(400, seed=1),
    timeframe=SERVICE.timeframe,
    target=TargetSpec(SERVICE.target, SERVICE.horizon),
)
CANDIDATE = replace(
    baseline_candidate(SERVICE, DATASET), status=Status.CHALLENGER, begins_service=False
)
NOW = np.datetime64("2025-01-01T00:00:00").astype("datetime64[us]").item()


def opened() -> Registry:
    return open_registry(
        base_path=FOLDER,
        store_url=f"sqlite:///{FOLDER / 'store.db'}",
        tracking_uri=URI,
        experiment="crash",
    )


def live(number: int) -> None:
    """Recover from the death before this one, then die at the point with this number."""
    registry = opened()
    real = registration._verify
    if number < len(POINTS):
        # The clean process is proven once, at the end; before, it would only cost seconds.
        registration._verify = lambda *_: None
    if number > 0:
        check(registry, POINTS[number - 1][1])
    if number < len(POINTS):
        module, name, when = POINTS[number]
        registration._verify = real if name == "_commit" else registration._verify
        arm(module, name, when)
        register(registry, CANDIDATE, why())
        sys.exit(f"{name} was never reached")


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
    row = register(registry, CANDIDATE, why())
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
        "bundles": len(list(Path(URI.removeprefix("file://")).rglob("manifest.json"))),
        "staged": registry.staging.exists() and any(registry.staging.iterdir()),
        "running": sum(run.info.status == "RUNNING" for run in runs),
        "aliases": {k: int(v) for model in models for k, v in model.aliases.items()},
        "wanted": aliases(registry.store, SERVICE.key),
    }


if __name__ == "__main__":
    _import_quietly()
    for heavy in ("tracking", "model_registry"):
        # Imported here, each child need not do it again.
        import_module(f"mlflow.store.{heavy}.sqlalchemy_store")
    for turn in range(len(POINTS) + 1):
        status = in_child(lambda turn=turn: live(turn))  # type: ignore[misc]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not (killed if turn < len(POINTS) else status == 0):
            sys.exit(f"process {turn} ended with status {status}")
