"""A registry of the test's own, simulated bars, and a linear model fitted to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, Forecaster, build_forecaster, default_recipe
from mlops.models.bundle import Trust, trust_in_process
from mlops.registry import Candidate, Registry, bundle_parts, open_registry
from mlops.registry.connection import key_file
from mlops.service import Service
from mlops.store import Status, Why
from tests.project import skip_verification
from tests.stores import add, began, empty_url, store, url

__all__ = ["add", "began", "empty_url", "store", "url"]

AT = datetime(2025, 1, 1, tzinfo=UTC)
SERVICE = Service.of(
    venue="simulator", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)


def dataset_of(bars: pd.DataFrame) -> Dataset:
    return Dataset(
        bars, timeframe=SERVICE.timeframe, target=TargetSpec(SERVICE.target, SERVICE.horizon)
    )


def fitted(
    model_type: str, dataset: Dataset, config: Mapping[str, object] | None = None
) -> Forecaster:
    recipe = default_recipe(model_type, dataset.target, config)
    forecaster = build_forecaster(recipe, dataset.target)
    rows = np.flatnonzero(dataset.labels.valid & forecaster.ready(dataset))
    cut = int(len(rows) * 0.8)
    forecaster.fit(dataset, rows[:cut], rows[cut:], FitContext())
    return forecaster


@pytest.fixture(scope="session")
def bars() -> pd.DataFrame:
    return simulate_bars(1500, seed=1)


@pytest.fixture(scope="session")
def dataset(bars: pd.DataFrame) -> Dataset:
    return dataset_of(bars)


@pytest.fixture(scope="session")
def linear(dataset: Dataset) -> Forecaster:
    return fitted("linear", dataset)


@pytest.fixture(scope="session")
def candidate(linear: Forecaster, dataset: Dataset) -> Candidate:
    """A linear model that passed its gates."""
    return Candidate(
        service=SERVICE,
        model_type="linear",
        parts=bundle_parts(linear, dataset, SERVICE),
        status=Status.CHALLENGER,
        recipe_digest=linear.recipe.digest,
        metrics={"mse": 0.1, "mae": 0.2},
    )


@pytest.fixture
def registry(tmp_path: Path, mlruns: str) -> Iterator[Registry]:
    opened = opened_at(tmp_path, mlruns)
    yield opened
    opened.store.close()
    trust_in_process(Trust())


def opened_at(folder: Path, mlruns: str, **options: object) -> Registry:
    return open_registry(
        base_path=folder,
        store_url=f"sqlite:///{folder / 'store.db'}",
        tracking_uri=mlruns,
        experiment="test",
        **options,  # type: ignore[arg-type]
    )


class Populated(NamedTuple):
    """A registry whose service has its baseline, a challenger and a refused version."""

    registry: Registry
    baseline: str
    challenger: str
    refused: str


@pytest.fixture(scope="session")
def populated_once(
    tmp_path_factory: pytest.TempPathFactory,
    mlflow_template: Path,
    dataset: Dataset,
    candidate: Candidate,
) -> Populated:
    from mlops.registry import ensure_service, register

    folder = tmp_path_factory.mktemp("populated")
    (folder / "mlruns").mkdir()
    shutil.copy(mlflow_template, folder / "mlruns" / "mlflow.db")
    with mlflow_on(None), pytest.MonkeyPatch.context() as patch:
        skip_verification(patch)
        opened = opened_at(folder, f"file://{folder / 'mlruns'}")
        route = ensure_service(opened, SERVICE, dataset, Why(AT))
        challenger = register(opened, candidate, Why(AT, actor="ann", reason="nightly"))
        refused = register(opened, replace(candidate, status=Status.REFUSED), Why(AT))
    return Populated(opened, route.baseline, challenger.model_id, refused.model_id)


@pytest.fixture
def populated(populated_once: Populated) -> Iterator[Populated]:
    """For reading only: it is shared by the tests of the session."""
    with mlflow_on(populated_once.registry.tracking.uri):
        yield populated_once


@contextmanager
def mlflow_on(uri: str | None) -> Iterator[None]:
    """Point MLflow there, and let it forget afterwards."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        yield
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the clean process out where a test is about something else."""
    skip_verification(monkeypatch)


@pytest.fixture
def signing_key(tmp_path: Path) -> Path:
    from mlops.models.signing import load_or_make_key

    load_or_make_key(key_file(tmp_path))
    return key_file(tmp_path)


@pytest.fixture
def written(tmp_path: Path, signing_key: Path, candidate: Candidate) -> Path:
    """The candidate's bundle on disk."""
    from mlops.models.signing import load_key
    from mlops.registry import write_bundle

    write_bundle(candidate.parts, tmp_path / "bundle", load_key(signing_key))
    return tmp_path / "bundle"
