"""Kills trainings with SIGKILL at named points, each in a process of its own.

Run as a script with a file of bars: every process asks for the same training and dies one
point later than the one before it; the last one finishes. Prints one JSON line a process: what
it found when it began, and, as it goes, each trial it walked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from typing import Any

from flows.train import train
from mlops.code_version import code_version
from mlops.registry import registration
from mlops.registry.connection import load
from mlops.registry.tracking import _import_quietly
from mlops.search import study, tuning
from mlops.search.config import TrainingConfig
from mlops.store import count_trials, list_versions
from mlops.store.routes import aliases
from mlops.store.schema import lease
from tasks.context import open_project
from tests.forked import in_child

POINTS = [
    ("the search begins", study, "tune", "before", 1),
    ("two trials are done", tuning, "run_walk_forward", "before", 3),
    ("the holdout begins", study, "run_walk_forward", "before", 1),
    ("MLflow has the files", registration, "log_model", "after", 1),
    ("MLflow has the version", registration, "create_version", "after", 1),
    ("the store is about to commit", registration, "_commit", "before", 1),
    ("the store has committed", registration, "_commit", "after", 1),
]
IMPORTED_LATE = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlops.models.linear",
    "mlops.models.baselines",
    "arch.bootstrap",
    "pyarrow.parquet",
)
SERVICE = "simulator.btc-usd.1h.volatility.24"
BARS = sys.argv[1]


def live(turn: int) -> None:
    """Tell what the process before this one left, then train until the point, or to the end."""
    say(turn=turn, found=seen())
    end_lease_of_the_dead()
    tell_trials(turn)
    registering = registration._verify
    if turn < len(POINTS):
        # The clean process is proven once, at the end; before, it would only cost seconds.
        registration._verify = lambda *_: None
        arm(*POINTS[turn][1:])
    result = train(
        symbol="BTC/USD",
        model_type="linear",
        venue="simulator",
        training=TrainingConfig(bars_file=BARS, refits=2, holdout_refits=2, trials=4),
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


if __name__ == "__main__":
    _import_quietly()
    for heavy in IMPORTED_LATE:
        # Imported here, each child need not do it again.
        import_module(heavy)
    code_version()  # asked once: the working tree may change while the processes run
    for turn in range(len(POINTS) + 1):
        status = in_child(lambda turn=turn: live(turn))  # type: ignore[misc]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not (killed if turn < len(POINTS) else status == 0):
            sys.exit(f"process {turn} ended with status {status}")
