"""A training ends with a registered version and its reasons, or with nothing half."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.artifacts import Artifact

from flows.train import train
from mlops.data.simulator import simulate_bars
from mlops.errors import LookaheadError
from mlops.features.bar_arrays import BarArrays
from mlops.features.indicators import register_indicator, unregister_indicator
from mlops.registry.connection import load
from mlops.store import count_trials, get_route, get_version, list_versions
from tests.project import SERVICE, SMALL_LSTM, Place, made_place, skip_verification

RETURN = "simulator.btc-usd.1h.return.1"


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[tuple[Place, Any]]:
    """One search over two families that several tests look at."""
    with made_place(tmp_path_factory.mktemp("searched"), mlflow_template) as place:
        yield place, place.train("lstm", params=SMALL_LSTM, trials=3)


def children(place: Place, run_id: str) -> list[Any]:
    tracking = place.registry.tracking
    of_parent = f"tags.`mlflow.parentRunId` = '{run_id}'"
    return list(tracking.client.search_runs([tracking.experiment_id], of_parent))


def test_what_passes_becomes_the_challenger_beside_its_baseline(
    searched: tuple[Place, Any],
) -> None:
    place, result = searched
    route = get_route(place.registry.store, SERVICE)
    version = get_version(place.registry.store, result.model_id)

    assert result.service == SERVICE
    assert result.passed
    assert version.status == result.status == "challenger"
    assert route is not None
    assert route.champion == route.baseline
    assert get_version(place.registry.store, route.baseline).model_type == "persistence"
    model = place.registry.tracking.client.get_registered_model(SERVICE)
    numbers = {alias: int(number) for alias, number in model.aliases.items()}
    assert numbers == {"champion": 1, "baseline": 1, "challenger": result.version}


def test_the_registered_version_loads_and_forecasts(searched: tuple[Place, Any]) -> None:
    place, result = searched
    forecasts = load(place.registry, result.model_id).predict(place.frame.tail(800))
    assert np.isfinite(forecasts["forecast"]).all()
    assert len(forecasts) > 100


def test_every_trial_is_a_child_run_and_counted_once(searched: tuple[Place, Any]) -> None:
    place, result = searched
    runs = children(place, result.run_id)

    assert sorted(run.info.run_name for run in runs) == ["linear-0", "linear-2", "lstm-1"]
    assert all(run.info.status == "FINISHED" for run in runs)
    assert all("statistic" in run.data.metrics for run in runs)
    assert count_trials(place.registry.store, SERVICE) == 3


def test_the_run_tells_recipe_data_figures_and_card(searched: tuple[Place, Any]) -> None:
    place, result = searched
    client = place.registry.tracking.client
    run = client.get_run(result.run_id)
    version = get_version(place.registry.store, result.model_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["model_type"] == version.model_type
    assert run.data.tags["dataset_sha256"] == version.watermark
    assert run.data.metrics["mse"] == pytest.approx(result.evaluation["mse"].value)
    assert f"{result.model_id}.html" in {file.path for file in client.list_artifacts(result.run_id)}


def test_the_card_is_a_page_with_five_pictures(searched: tuple[Place, Any]) -> None:
    _, result = searched
    html = Path(result.report).read_text()
    assert result.model_id in html
    assert html.count("data:image/png;base64,") == 5


def test_an_artifact_shows_every_gate_and_links_the_run(searched: tuple[Place, Any]) -> None:
    place, result = searched
    artifact = Artifact.get("train-simulator-btc-usd-1h-volatility-24")
    assert artifact is not None
    shown = str(artifact.data)
    report = get_version(place.registry.store, result.model_id).report
    assert report is not None
    for gate in report["results"]:
        assert f"| {gate['name']} {gate['title']} |" in shown
    assert f"/#/experiments/{place.registry.tracking.experiment_id}/runs/{result.run_id}" in shown
    assert result.report in shown


def test_noise_is_refused_by_g2_and_registered_as_refused(project: Place) -> None:
    result = project.train(target="return", horizon=1, features=("log_return",), trials=4)
    version = get_version(project.registry.store, result.model_id)

    assert not result.passed
    assert "G2 skill" in result.refused_by
    assert version.status == "refused"
    assert "challenger" not in project.registry.tracking.client.get_registered_model(RETURN).aliases


def test_a_feature_that_looks_ahead_stops_the_training_by_name(project: Place) -> None:
    def tomorrow(bars: BarArrays) -> Any:
        return np.append(np.log(bars.close[1:] / bars.close[:-1]), 0.0)

    register_indicator("tomorrow", tomorrow, warm_up=0)
    try:
        with pytest.raises(LookaheadError, match=r"'tomorrow' looks ahead: its value at bar 20"):
            project.train(features=("har_1", "tomorrow"))
    finally:
        unregister_indicator("tomorrow")
    only = list_versions(project.registry.store)
    assert [version.model_type for version in only] == ["persistence"]
    assert count_trials(project.registry.store, SERVICE) == 0


@pytest.mark.slow
def test_the_same_seed_and_bars_give_the_same_bundle_anywhere(
    tmp_path: Path, mlflow_template: Path
) -> None:
    digests = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        (tmp_path / name).mkdir()
        with made_place(tmp_path / name, mlflow_template) as place:
            skip_verification(place.patch)
            result = place.train("lstm", families=("lstm",), params=SMALL_LSTM, seed=seed)
            digests.append(get_version(place.registry.store, result.model_id).digest)
    assert digests[0] == digests[1]
    assert digests[2] != digests[0]


def test_asking_again_recalls_the_trials_and_counts_none_twice(project: Place) -> None:
    asked = {"trials": 2, "features": None, "sequence_length": None}
    first, again = project.train(**asked), project.train(**asked)
    store = project.registry.store
    digests = {get_version(store, r.model_id).digest for r in (first, again)}

    assert len(digests) == 1
    assert children(project, again.run_id) == []
    assert count_trials(store, SERVICE) == 2


def test_a_call_that_names_only_a_symbol_gets_the_default_service(project: Place) -> None:
    simulate_bars(1500, seed=3, timeframe="4h").to_parquet(project.bars)
    project.set(DEFAULT_VENUE="simulator", DEFAULT_TIMEFRAME="4h")
    project.set(DEFAULT_TARGET="direction", DEFAULT_HORIZON=2)
    result = train(symbol="ETH/USD", model_type="linear", training=project.config())
    assert result.service == "simulator.eth-usd.4h.direction.2"
