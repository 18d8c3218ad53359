"""A registered service with real bundles, and a replica's parts in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from mlops.data.file_options import BarsChoice
from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.models.bundle import Trust, trust_in_process
from mlops.registry import Candidate, Registry, bundle_parts, ensure_service, register
from mlops.registry.markets import keep_chosen_file, set_market_of
from mlops.serving.runtime import Options, Runtime
from mlops.serving.store_sync import Identity
from mlops.settings import FileClock
from mlops.store import ModelVersion, Status, Store, Why, get_version
from mlops.store.routes import change_route, read_route, renew_exposure
from tests.mlops.registry.conftest import AT, SERVICE, dataset_of, fitted, mlflow_on, opened_at

N_BARS = 1500
KEY = SERVICE.key


@dataclass(frozen=True)
class Library:
    """A registry of a service: its baseline, and two linear models; ``bars_file`` has its bars."""

    registry: Registry
    folder: Path
    bars_file: Path
    baseline: str
    versions: tuple[str, ...]


@pytest.fixture(scope="session")
def library_once(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Library:
    """Registered once; the clean process is left out, for these tests are about serving."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "mlruns").mkdir()
    shutil.copy(mlflow_template, folder / "mlruns" / "mlflow.db")
    frame = simulate_bars(N_BARS, seed=1)
    bars_file = folder / "bars.parquet"
    frame.to_parquet(bars_file)
    dataset = dataset_of(frame)
    with pytest.MonkeyPatch.context() as patch, mlflow_on(None):
        patch.setattr("mlops.registry.registration._verify", lambda registry, logged: None)
        registry = opened_at(folder, f"file://{folder / 'mlruns'}")
        baseline = ensure_service(registry, SERVICE, dataset, Why(AT)).baseline
        versions = tuple(
            register(registry, _linear(dataset, features, bars_file), Why(AT)).model_id
            for features in (["har_1", "har_24"], ["har_1", "har_168", "volume"])
        )
    choice = BarsChoice(bars_file=str(bars_file), file_clock=FileClock.WALL)
    keep_chosen_file(registry.store, SERVICE, choice, folder / "bars")
    with registry.store.write() as connection:
        set_market_of(SERVICE, choice, Why(AT))(connection, version_of(registry.store, versions[0]))
    trust_in_process(Trust())
    registry.store.close()
    return Library(registry, folder, bars_file, baseline, versions)


def _linear(dataset: Dataset, features: list[str], bars_file: Path) -> Candidate:
    forecaster = fitted("linear", dataset, {"features": features, "sequence_length": 3})
    return Candidate(
        service=SERVICE,
        model_type="linear",
        parts=bundle_parts(forecaster, dataset, SERVICE),
        status=Status.CHALLENGER,
        recipe_digest=forecaster.recipe.digest,
        notes={"config": {"bars_file": str(bars_file)}},
    )


@pytest.fixture
def library(library_once: Library, tmp_path: Path) -> Library:
    """The same, with a store of the test's own."""
    shutil.copy(library_once.folder / "store.db", tmp_path / "store.db")
    from mlops.store import open_store

    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    return replace(library_once, registry=replace(library_once.registry, store=store))


@pytest.fixture
def store(library: Library) -> Iterator[Store]:
    yield library.registry.store
    library.registry.store.close()


@pytest.fixture
def frame(library: Library) -> pd.DataFrame:
    return pd.read_parquet(library.bars_file)


@pytest.fixture
def set_route(store: Store) -> Callable[..., None]:
    """Change the route by hand, and let a challenger's share count."""

    def change(**changes: object) -> None:
        with store.write() as connection:
            route = read_route(connection, KEY)
            assert route is not None
            change_route(connection, route, replace(route, **changes), "test", Why(AT))  # type: ignore[arg-type]
            renew_exposure(connection, KEY, seconds=60.0)

    return change


@pytest.fixture
def runtime(library: Library, store: Store, tmp_path: Path) -> Iterator[Runtime]:
    """A replica's parts; nothing runs but what a test calls."""
    with made_runtime(library, store, tmp_path) as made:
        yield made


@contextmanager
def made_runtime(
    library: Library, store: Store, home: Path, name: str = "r1", **options: object
) -> Iterator[Runtime]:
    made = Runtime(
        store,
        identity=Identity.of("127.0.0.1:0", name),
        home=home,
        trust=library.registry.trust,
        bundles=library.registry.bundles,
        bars_root=home / "bars",
        options=Options(**options),  # type: ignore[arg-type]
    )
    try:
        yield made
    finally:
        made.batcher.stop()
        made.store_sync.stop()
        made.request_log.close()


@pytest.fixture
def settle(runtime: Runtime) -> Callable[[], None]:
    """Have the store read and models loaded until none is missing."""

    def until_settled() -> None:
        runtime.store_sync.sync_once()
        while runtime.store_sync.load_next():
            pass
        runtime.store_sync.sync_once()

    return until_settled


def version_of(store: Store, model_id: str) -> ModelVersion:
    return get_version(store, model_id)
