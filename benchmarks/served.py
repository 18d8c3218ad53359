"""A project with one network live as a service, and the requests for each server.

Every server holds the same LSTM. Ours is sent plain bars and makes the network's features
itself, so each of its requests carries the bars that the features need before the first step.
The others are sent the finished features: (60, 5) numbers, scaled as the network was trained.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson
import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from benchmarks.load import Ask
from mlops.data.load import load_bars
from mlops.features.dataset import Dataset, windows
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, Forecaster, build_forecaster, default_recipe
from mlops.models.feature_forecaster import FeatureForecaster
from mlops.models.lstm import LstmNetwork
from mlops.models.networks import NetworkForecaster
from mlops.paths import path_of
from mlops.registry import Candidate, Registry, bundle_parts, load, open_registry, register
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import ModelVersion, Status, Why

SERVICE = "sample.btc-usd.1h.volatility.24"
STEPS = 60
FEATURES = ("open", "high", "low", "close", "volume")
UNITS = (128, 64, 32)
FIT_ROWS, SELECTION_ROWS = 512, 256
ASKS = 16
"""Different requests, so that no server gains from caching answers."""


class BatchFirst(nn.Module):
    """The network with the shapes that other servers expect: (n, T, F) to (n, 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, window: Tensor) -> Tensor:
        forecast: Tensor = self.network(window.transpose(0, 1)).unsqueeze(-1)
        return forecast


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Requests for our server (bars) and for the others (features), with the right answers."""

    bars: list[Ask]
    features: list[Ask]
    frames: list[Ask]


@dataclass(eq=False)
class Place:
    """An installation of its own under ``home``; the network is live there."""

    home: Path
    registry: Registry
    dataset: Dataset
    version: ModelVersion

    @cached_property
    def forecaster(self) -> NetworkForecaster:
        found = load(self.registry, self.version.model_id).forecaster
        assert isinstance(found, NetworkForecaster)
        return found

    @property
    def logged(self) -> Path:
        """MLflow's folder of the version: the bundle as the model that MLflow knows."""
        bundle = path_of(self.version.bundle_uri)
        return next(folder for folder in bundle.parents if (folder / "MLmodel").exists())

    @property
    def window_bars(self) -> int:
        """Bars in a request to ours: 60 steps and what their features need before them."""
        return self.forecaster.warm_up

    @property
    def network(self) -> nn.Module:
        assert self.forecaster.network is not None
        return self.forecaster.network

    def rows(self, n: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """``n`` bars, spread over the last years, that a forecast can be made from."""
        ready = np.flatnonzero(self.forecaster.ready(self.dataset))
        return ready[np.linspace(0, len(ready) - 1, n).astype(np.intp)]

    def features(self, n: int) -> Tensor:
        """(n, 60, 5) windows of scaled features."""
        matrix = self.forecaster.inputs(self.dataset)
        return torch.from_numpy(np.array(windows(matrix, self.rows(n), STEPS)))


def bare_network() -> BatchFirst:
    """The network alone, its weights read from the file that `SERVED_WEIGHTS` names."""
    network = LstmNetwork(len(FEATURES), UNITS, dropout=0.0)
    load_model(network, os.environ["SERVED_WEIGHTS"])
    return BatchFirst(network.eval()).eval()


def make_place(home: Path) -> Place:
    """Fit the platform's LSTM for an epoch on part of the sample and begin a service with it."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    settings = Settings(mlops_base_path=home, mlflow_tracking_uri="", store_url="", _env_file=None)
    registry = open_registry(
        base_path=settings.mlops_base_path,
        store_url=settings.database_url,
        tracking_uri=settings.tracking_uri,
        experiment="bench",
    )
    service = Service.parse(SERVICE)
    target = TargetSpec(service.target, service.horizon)
    bars = load_bars(service, cache_root=settings.bars_path)
    dataset = Dataset(
        bars.frame, timeframe=service.timeframe, target=target, provenance=bars.provenance
    )
    version = register(registry, lstm_candidate(service, dataset, seed=0, begins=True), _why())
    return Place(home, registry, dataset, version)


def add_version(place: Place, *, seed: int) -> ModelVersion:
    """Another fit of the same network, registered as a challenger."""
    service = Service.parse(SERVICE)
    candidate = lstm_candidate(service, place.dataset, seed=seed, begins=False)
    return register(place.registry, candidate, _why())


def lstm_candidate(service: Service, dataset: Dataset, *, seed: int, begins: bool) -> Candidate:
    """The platform's LSTM as a version, live from the start where it ``begins`` the service."""
    config = {
        "epochs": 1,
        "sequence_length": STEPS,
        "features": list(FEATURES),
        "lstm_units": list(UNITS),
    }
    recipe = default_recipe("lstm", dataset.target, config)
    forecaster: Forecaster = build_forecaster(recipe, dataset.target)
    assert isinstance(forecaster, FeatureForecaster)
    rows = dataset.labelled(forecaster.spec, STEPS)[-(FIT_ROWS + SELECTION_ROWS) :]
    forecaster.fit(dataset, rows[:FIT_ROWS], rows[FIT_ROWS:], FitContext(seed=seed))
    return Candidate(
        service=service,
        model_type="lstm",
        parts=bundle_parts(forecaster, dataset, service),
        status=Status.DEPLOYED if begins else Status.CHALLENGER,
        recipe_digest=recipe.digest,
        notes={"role": "what the benchmark serves"},
        begins_service=begins,
    )


def questions(place: Place, others: Sequence[ModelVersion] = ()) -> Questions:
    """The same forecasts asked for in each server's way, with what each must answer.

    Bars may also be answered by ``others``: what they make of them is right as well.
    """
    rows, size = place.rows(ASKS), place.window_bars
    every = [place.forecaster, *(load(place.registry, one.model_id).forecaster for one in others)]
    forecasts = np.column_stack([one.predict(place.dataset, rows) for one in every]).tolist()
    features = place.features(ASKS)
    with torch.inference_mode():
        learned = place.network(features.transpose(0, 1)).tolist()
    bars, frames = [], []
    for row, right in zip(rows, forecasts, strict=True):
        frame = place.dataset.frame.iloc[row - size + 1 : row + 1]
        values = frame[list(FEATURES)].to_numpy().tolist()
        bars.append(Ask.post(f"/services/{SERVICE}/invocations", {"instances": [values]}, *right))
        stamped = [[time.isoformat(), *bar] for time, bar in zip(frame.index, values, strict=True)]
        split = {"columns": ["open_time", *FEATURES], "data": stamped}
        frames.append(Ask.post("/invocations", {"dataframe_split": split}, right[0]))
    arrays = [
        Ask.post("/invocations", {"instances": [_shortest(window)]}, value)
        for window, value in zip(features, learned, strict=True)
    ]
    return Questions(bars=bars, features=arrays, frames=frames)


def _shortest(window: Tensor) -> list[list[float]]:
    """float32 in as few digits as name it: the others are not sent longer bodies than need be."""
    written = orjson.dumps(window.numpy(), option=orjson.OPT_SERIALIZE_NUMPY)
    found: list[list[float]] = orjson.loads(written)
    return found


def _why() -> Why:
    return Why(at=datetime.now(UTC), actor="benchmark", reason="a network to serve")
