"""Asks a replica's HTTP API all that its OpenAPI document allows, and what that forbids.

    python -m tests.fuzz.http_api --minutes 5

schemathesis makes the requests, by `schemathesis.toml`; the exit status is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom

from deployments.processes import ServerProcess
from deployments.serve import FIRST_SERVICE, start_sample_service
from mlops.data.load import load_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.installation import open_installation
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.registry import Candidate, bundle_parts, register
from mlops.settings import Settings
from mlops.store import Status, Why, get_route
from tests.fuzz.wire import serve

ROOT = Path(__file__).parents[2]
AT = datetime(2025, 1, 1, tzinfo=UTC)
BARS, FIT_BARS = 3000, 1500


@dataclass(frozen=True)
class FuzzedApi:
    """A process that answers the API, and the ids that it knows."""

    server: ServerProcess
    port: int
    ids: dict[str, list[str]]

    @property
    def document(self) -> str:
        return f"http://127.0.0.1:{self.port}/mlops/api/openapi.json"


@contextmanager
def serve_api(folder: Path, store_url: str = "") -> Iterator[FuzzedApi]:
    """A replica with the API in front, on the sample's service with two challengers.

    Args:
        store_url: Of an empty database; by default SQLite in the folder.
    """
    place = {
        "MLFLOW_TRACKING_URI": "",
        "STORE_URL": store_url,
        "SERVING_MAX_BODY_MB": "1",
        # No Prefect answers there, so that trainings and jobs are a 503.
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }
    ids = fill_installation(
        Settings(
            mlops_base_path=folder, mlflow_tracking_uri="", store_url=store_url, _env_file=None
        )
    )
    with serve(folder, place) as (server, port):
        yield FuzzedApi(server, port, ids)


def fill_installation(settings: Settings) -> dict[str, list[str]]:
    """Begin the sample's service and register two challengers; returns the ids by field."""
    start_sample_service(settings)
    installation = open_installation(settings)
    target = TargetSpec(FIRST_SERVICE.target, FIRST_SERVICE.horizon)
    frame = load_bars(FIRST_SERVICE, cache_root=settings.bars_path).frame.iloc[-BARS:]
    dataset = Dataset(frame, timeframe=FIRST_SERVICE.timeframe, target=target)
    challengers = []
    for features in (["har_1", "har_24"], ["har_1", "har_24", "har_168"]):
        recipe = default_recipe("linear", target, {"features": features})
        forecaster = build_forecaster(recipe, target)
        rows = dataset.labels.valid.nonzero()[0]
        forecaster.fit(dataset, rows[:FIT_BARS], rows[FIT_BARS : FIT_BARS + 300], FitContext())
        candidate = Candidate(
            service=FIRST_SERVICE,
            model_type="linear",
            parts=bundle_parts(forecaster, dataset, FIRST_SERVICE),
            status=Status.CHALLENGER,
            recipe_digest=recipe.digest,
            metrics={"mse": 0.1},
        )
        why = Why(datetime.now(UTC), actor="fuzz", reason="a world to fuzz")
        challengers.append(register(installation.registry, candidate, why).model_id)
    route = get_route(installation.store, FIRST_SERVICE.key)
    assert route is not None
    models = [route.baseline, *challengers]
    installation.close()
    return {
        "model_id": models,
        "model_a_id": models[:1],
        "model_b_id": challengers,
        "service": [FIRST_SERVICE.key],
    }


def run_schemathesis(api: FuzzedApi, *, minutes: float, seed: int) -> int:
    """Its exit status, 0 where it found nothing."""
    command = [
        sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "run", api.document,
        "--max-time", str(int(60 * minutes)), "--seed", str(seed), "--continue-on-failure",
    ]  # fmt: skip
    environment = os.environ | {"FUZZED_IDS": json.dumps(api.ids), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def fuzz_api(minutes: float, seed: int) -> int:
    """Run schemathesis against a replica of an installation made for it; returns its status."""
    with tempfile.TemporaryDirectory(prefix="fuzz-api-") as folder, serve_api(Path(folder)) as api:
        return run_schemathesis(api, minutes=minutes, seed=seed)


def main(arguments: Sequence[str]) -> int:
    """Run for some minutes, from a seed that is printed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http_api", description=__doc__)
    parser.add_argument("--seed", type=int, help="by default another one each time")
    parser.add_argument("--minutes", type=float, default=5.0)
    given = parser.parse_args(arguments)
    seed = SystemRandom().randrange(2**31) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    return fuzz_api(given.minutes, seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
