"""Trainings that are killed with SIGKILL at named points, each in a process of its own.

Every process asks for the same training and dies one point later than the one before it; the
last one finishes. Each prints JSON lines: what it found when it began, each trial it walked, and
what it left if it finished.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from prefect.context import root_settings_context

from flows.train import train
from mlops.registry import registration
from mlops.registry.connection import load
from mlops.search import study, tuning
from mlops.search.config import TrainingConfig
from mlops.store import count_trials, list_versions
from mlops.store.routes import aliases
from mlops.store.schema import lease
from tasks.context import open_project

POINTS = [
    ("the search begins", study, "tune", "before", 1),
    ("two trials are done", tuning, "run_walk_forward", "before", 3),
    ("the holdout begins", study, "run_walk_forward", "before", 1),
    ("MLflow has the files", registration, "log_model", "after", 1),
    ("MLflow has the version", registration, "create_version", "after", 1),
    ("the store is about to commit", registration, "_commit", "before", 1),
    ("the store has committed", registration, "_commit", "after", 1),
]
SERVICE = "simulator.btc-usd.1h.volatility.24"


def live(bars: str, turn: int) -> None:
    """Tell what the process before this one left, then train until the point, or to the end."""
    say(turn=turn, found=seen())
    end_lease_of_the_dead()
    tell_trials(turn)
    registering = registration._verify
    if turn < len(POINTS):
        # The clean process is proven once, at the end; before, it would only cost seconds.
        registration._verify = lambda *_: None
        arm(*POINTS[turn][1:])
    with root_settings_context():
        result = train(
            symbol="BTC/USD",
            model_type="linear",
            venue="simulator",
            training=TrainingConfig(bars_file=bars, refits=2, holdout_refits=2, trials=4),
        )
    assert registration._verify is registering, "a point was never reached"
    load(open_project().registry, result.model_id)
    say(turn=turn, left=seen(), model_id=result.model_id)


def end_lease_of_the_dead() -> None:
    """It would keep the next one waiting for 90 seconds."""
    with open_project().registry.store.write() as connection:
        connection.execute(lease.update().values(until=0.0))


def arm(module: Any, name: str, when: str, call: int) -> None:
    """Die at the ``call``-th call that is not about the service's baseline."""
    real = getattr(module, name)
    calls: list[int] = []

    def deadly(*arguments: Any, **named: Any) -> Any:
        begins = any(getattr(one, "begins_service", False) for one in arguments)
        calls.extend([] if begins else [1])
        if len(calls) == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(*arguments, **named)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(module, name, deadly)


def tell_trials(turn: int) -> None:
    real = tuning.run_walk_forward

    def telling(*arguments: Any, **named: Any) -> Any:
        walk = real(*arguments, **named)
        say(turn=turn, walked=arguments[0].digest)
        return walk

    tuning.run_walk_forward = telling


def seen() -> dict[str, Any]:
    registry = open_project().registry
    client, rows = registry.tracking.client, list_versions(registry.store)
    versions = client.search_model_versions(f"name = '{SERVICE}'")
    models = client.search_registered_models(f"name = '{SERVICE}'")
    runs = client.search_runs([registry.tracking.experiment_id])
    found = {
        "rows": sorted(row.mlflow_version for row in rows),
        "versions": sorted(int(version.version) for version in versions),
        "statuses": sorted({version.tags["status"] for version in versions}),
        "running": sum(run.info.status == "RUNNING" for run in runs),
        "aliases": {k: int(v) for model in models for k, v in model.aliases.items()},
        "wanted": aliases(registry.store, SERVICE),
        "trials": count_trials(registry.store, SERVICE),
        "staged": registry.staging.exists() and any(registry.staging.iterdir()),
    }
    registry.store.close()
    return found


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)
