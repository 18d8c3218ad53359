"""The HTTP API fuzzed by schemathesis from its own document, against a serving process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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
def serve_api(folder: Path) -> Iterator[FuzzedApi]:
    """A replica with the API in front, on the sample's service with two challengers."""
    place = {
        "MLFLOW_TRACKING_URI": "",
        "STORE_URL": "",
        "SERVING_MAX_BODY_MB": "1",
        # No Prefect answers there, so that trainings and jobs are a 503.
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }
    ids = fill_installation(
        Settings(mlops_base_path=folder, mlflow_tracking_uri="", store_url="", _env_file=None)
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


def run_schemathesis(api: FuzzedApi, *, seconds: int, seed: int) -> tuple[bool, str]:
    """Fuzz for so many seconds; whether nothing was found, and what schemathesis printed."""
    command = [
        sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "run", api.document,
        "--max-time", str(seconds), "--seed", str(seed), "--continue-on-failure",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "FUZZED_IDS": json.dumps(api.ids),
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode == 0, done.stdout + done.stderr
