"""Runs keep what was tried, under any URI the platform allows."""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mlops.errors import RegistryError
from mlops.registry import RunLog, Tracking, connect, open_run
from mlops.registry.tracking import resolve_tracking_uri


@pytest.fixture
def tracking(mlruns: str) -> Tracking:
    return connect(mlruns, "test")


@pytest.mark.parametrize(
    ("given", "uri", "artifacts"),
    [
        ("file:///data/mlruns", "sqlite:////data/mlruns/mlflow.db", "/data/mlruns/artifacts"),
        ("file:///a%20b", "sqlite:////a b/mlflow.db", "/a b/artifacts"),
        ("/data/mlruns", "sqlite:////data/mlruns/mlflow.db", "/data/mlruns/artifacts"),
        ("sqlite:////data/my.db", "sqlite:////data/my.db", "/data/artifacts"),
        ("sqlite+pysqlite:////data/my.db", "sqlite:////data/my.db", "/data/artifacts"),
        ("sqlite:////data/my.db?timeout=5", "sqlite:////data/my.db?timeout=5", "/data/artifacts"),
        ("file:///data/a#1", "sqlite:////data/a#1/mlflow.db", "/data/a#1/artifacts"),
        ("/data/a%20b", "sqlite:////data/a%20b/mlflow.db", "/data/a%20b/artifacts"),
        (
            "/data/a?b",
            "sqlite+pysqlite:///file:///data/a%3Fb/mlflow.db?uri=true",
            "/data/a?b/artifacts",
        ),
        (
            "sqlite:///file:/data/a%3Fb/my.db?uri=true&mode=rw",
            "sqlite+pysqlite:///file:///data/a%3Fb/my.db?uri=true&mode=rw",
            "/data/a?b/artifacts",
        ),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", None),
    ],
)
def test_every_uri_of_the_platform_becomes_one_mlflow_accepts(
    given: str, uri: str, artifacts: str | None
) -> None:
    location = resolve_tracking_uri(given)
    assert location.uri == uri
    assert location.artifacts == (Path(artifacts) if artifacts else None)


def test_artifacts_lie_under_the_configured_path(tracking: Tracking, mlruns: str) -> None:
    with open_run(tracking, "train") as run:
        run.log_text("card", "card.html")
    kept = Path(mlruns.removeprefix("file://")) / "artifacts"
    assert [path.name for path in kept.rglob("card.html")] == ["card.html"]


def test_connecting_turns_telemetry_and_pickles_off(tracking: Tracking) -> None:
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_place_that_cannot_be_used_is_named() -> None:
    with pytest.raises(RegistryError, match="check MLFLOW_TRACKING_URI"):
        connect("file:///proc/nowhere", "test")


def test_an_experiment_is_made_once_and_brought_back_when_deleted(
    tracking: Tracking, mlruns: str
) -> None:
    tracking.client.delete_experiment(tracking.experiment_id)
    assert connect(mlruns, "test").experiment_id == tracking.experiment_id


def figures(tracking: Tracking, run: RunLog, name: str) -> list[tuple[int, float]]:
    found = tracking.client.get_metric_history(run.run_id, name)
    return [(metric.step, metric.value) for metric in found]


def test_epochs_are_logged_in_few_requests(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"fit_loss": 1.0 / (epoch + 1), "selection_loss": 0.5} for epoch in range(600)]
    requests: list[int] = []
    real = type(tracking.client).log_batch

    def counted(self: object, run_id: str, **given: list[object]) -> object:
        requests.append(len(given.get("metrics", [])))
        return real(self, run_id, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(type(tracking.client), "log_batch", counted)
    with open_run(tracking, "train") as run:
        run.log_epochs(rows)
    assert requests == [1000, 200]
    assert figures(tracking, run, "fit_loss")[-1] == (599, 1 / 600)


def test_what_is_not_finite_is_left_out(tracking: Tracking) -> None:
    with open_run(tracking, "train") as run:
        run.log_metrics({"a": math.inf, "b": math.nan, "c": None, "d": 1.5})
    assert tracking.client.get_run(run.run_id).data.metrics == {"d": 1.5}


def test_parameters_of_any_shape_and_number_are_kept(tracking: Tracking) -> None:
    many = {f"p{number}": number for number in range(150)}
    with open_run(tracking, "train") as run:
        run.log_params({**many, "units": (128, 64), "text": "x" * 9000})
    params = tracking.client.get_run(run.run_id).data.params
    assert len(params) == 152
    assert (params["p149"], params["units"]) == ("149", "[128, 64]")


def test_the_bars_a_run_used_are_named_by_their_whole_hash(tracking: Tracking) -> None:
    content_hash = "ab" * 32
    with open_run(tracking, "train") as run:
        run.log_dataset("BTC/USD 1h", content_hash=content_hash, source="sample", rows=100)
    found = tracking.client.get_run(run.run_id)
    (used,) = found.inputs.dataset_inputs
    assert content_hash.startswith(used.dataset.digest)
    assert {tag.key: tag.value for tag in used.tags}["sha256"] == content_hash
    assert found.data.tags["dataset_sha256"] == content_hash
    assert json.loads(used.dataset.profile) == {"num_rows": 100}


def test_a_trial_is_a_child_run(tracking: Tracking) -> None:
    with open_run(tracking, "train") as run:
        child = run.log_child("trial 3", params={"alpha": 0.1}, metrics={"loss": 2.0})
    found = tracking.client.get_run(child)
    assert found.data.tags["mlflow.parentRunId"] == run.run_id
    assert (found.info.status, found.info.run_name) == ("FINISHED", "trial 3")
    assert (found.data.params, found.data.metrics) == ({"alpha": "0.1"}, {"loss": 2.0})


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_says_how_it_ended(
    tracking: Tracking, error: type[BaseException], status: str
) -> None:
    started = []

    def fail() -> None:
        with open_run(tracking, "train") as run:
            started.append(run.run_id)
            raise error

    with pytest.raises(error):
        fail()
    assert tracking.client.get_run(started[0]).info.status == status


def test_two_runs_may_note_the_same_bars_at_once(mlruns: str) -> None:
    """MLflow alone fails one of them: it looks whether it knows the bars, then inserts them."""
    tracking = connect(mlruns, "crowd")
    start = Barrier(4)

    def note(_: int) -> None:
        with open_run(tracking, "training") as run:
            start.wait()
            run.log_dataset("bars", content_hash="a" * 64, source="test", rows=10)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(note, range(4)))
