"""Drift, watches, the dashboard and what a page polls, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops.api.children import Work
from mlops.api.paging import write_name_cursor
from mlops.store.monitor_runs import list_watches
from tests.mlops.api.conftest import (
    FIRST_BAR,
    HOUR,
    OUTCOMES,
    Client,
    World,
    made_world,
    outcome_of,
)
from tests.mlops.api.in_process import InProcess
from tests.mlops.serving.conftest import Library

FEATURES = ["har_1", "har_24"]
"""Features of the champion."""


@pytest.fixture(scope="module")
def world(library_once: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose children are threads: a real one begins with seconds of imports."""
    folder = tmp_path_factory.mktemp("monitoring")
    with made_world(library_once, folder, context={"children": InProcess()}) as made:
        yield made


def bars_of(world: World, count: int) -> list[dict[str, Any]]:
    """The newest bars of the service as records, their open time as text."""
    frame = pd.read_parquet(world.library.bars_file)[-count:]
    rows = frame[["open", "high", "low", "close", "volume"]].to_dict("records")
    times = frame.index.strftime("%Y-%m-%dT%H:%M:%SZ")
    return [{"open_time": at, **row} for at, row in zip(times, rows, strict=True)]


def check(client: Client, model_id: str, data: object, **given: object) -> Any:
    return client.post("monitoring/drift", json={"model_id": model_id, "data": data, **given})


class TestDrift:
    def test_bars_are_set_against_every_column_of_the_version(
        self, world: World, client: Client
    ) -> None:
        answer = check(client, world.champion, bars_of(world, 400))
        assert answer.status_code == 200
        document = answer.json()
        assert (document["drift_detected"], document["window_bars"]) == (False, 168)
        names = {column["name"] for column in document["columns"]}
        assert names == {*FEATURES, "target", "forecast", "realised"}
        assert isinstance(document["drift_score"], float)

    def test_rows_with_none_of_the_columns_are_refused_with_their_names(
        self, world: World, client: Client
    ) -> None:
        rows = [{"feature1": 0.5, "feature2": 1.0}, {"feature1": 0.6, "feature2": 1.1}]
        answer = check(client, world.champion, rows)
        assert answer.status_code == 422
        assert "columns har_1, har_24, target, forecast, realised are missing" in answer.text

    def test_rows_with_some_of_the_columns_are_judged_and_name_those_that_are_absent(
        self, world: World, client: Client
    ) -> None:
        answer = check(client, world.champion, [{"har_1": 0.5}, {"har_1": 0.6}])
        assert answer.status_code == 200
        document = answer.json()
        statuses = {column["name"]: column["status"] for column in document["columns"]}
        assert statuses["har_24"] == "absent"
        assert (document["status"], document["drift_detected"]) == ("insufficient_data", False)

    def test_bars_without_a_column_of_bars_are_refused(self, world: World, client: Client) -> None:
        rows = [{key: row[key] for key in row if key != "volume"} for row in bars_of(world, 30)]
        answer = check(client, world.champion, rows)
        assert answer.status_code == 422
        assert "column 'volume' is missing" in answer.json()["detail"]

    def test_times_that_name_no_zone_are_read_by_the_zone_that_is_given(
        self, world: World, client: Client
    ) -> None:
        rows = [{**row, "open_time": row["open_time"].rstrip("Z")} for row in bars_of(world, 23)]
        document = check(client, world.champion, rows, timezone="UTC").json()
        assert (document["status"], document["drift_detected"]) == ("insufficient_data", False)

    @pytest.mark.parametrize(
        "data", [[], [{}], {"har_1": [1.0]}, [{"har_1": True}], [{"har_1": [1.0]}], [[1.0]], "rows"]
    )
    def test_what_is_no_list_of_records_is_refused(
        self, world: World, client: Client, data: object
    ) -> None:
        assert check(client, world.champion, data).status_code == 422

    def test_a_second_computation_is_asked_to_come_again(
        self, world: World, client: Client
    ) -> None:
        with client.app.state.context.children.reserve(Work.COMPUTATION):
            answer = check(client, world.champion, [{"har_1": 0.5}])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")

    def test_an_unknown_version_is_not_found(self, client: Client) -> None:
        assert check(client, "lstm_BTC_1", [{"har_1": 0.5}]).status_code == 404


class TestWatches:
    def test_a_version_is_watched_until_it_is_told_to_stop(
        self, world: World, client: Client
    ) -> None:
        path = f"monitoring/start-continuous?model_id={world.challenger}&interval_hours=1"
        started = client.post(path)
        assert started.status_code == 200
        assert client.post(path).json() == started.json()
        assert client.get("monitoring/continuous").json()["watches"] == [started.json()]
        (row,) = list_watches(world.store)
        assert (row.model_id, row.started_by) == (world.challenger, "local")
        stop = f"monitoring/stop-continuous?model_id={world.challenger}"
        assert [client.post(stop).json()["stopped"] for _ in range(2)] == [True, False]
        assert client.get("monitoring/continuous").json() == {"watches": []}

    @pytest.mark.parametrize("hours", ["0.5", "0", "-1", "nan", "inf", "x"])
    def test_an_interval_that_the_monitor_cannot_keep_is_refused(
        self, world: World, client: Client, hours: str
    ) -> None:
        path = f"monitoring/start-continuous?model_id={world.champion}&interval_hours={hours}"
        assert client.post(path).status_code == 422

    def test_a_baseline_is_not_watched(self, world: World, client: Client) -> None:
        answer = client.post(f"monitoring/start-continuous?model_id={world.baseline}")
        assert (answer.status_code, "baseline" in answer.json()["detail"]) == (409, True)


class TestPolled:
    def test_the_dashboard_has_the_platforms_keys_and_true_figures(
        self, world: World, client: Client
    ) -> None:
        document = client.get("monitoring/dashboard").json()
        assert {key: set(document[key]) for key in ("summary", "performance_metrics")} == {
            "summary": {
                "total_models", "deployed_models", "training_models", "active_experiments",
            },
            "performance_metrics": {
                "average_mse", "average_accuracy", "deployment_success_rate",
            },
        }  # fmt: skip
        assert set(document) == {"summary", "performance_metrics", "drift_alerts"}
        figures = document["performance_metrics"]
        variance = np.var([outcome_of(bar) for bar in range(OUTCOMES)])
        # Champion and baseline are deployed; the baseline has no forecast of its own.
        assert figures["average_mse"] == pytest.approx(0.01 / variance)
        assert document["summary"]["total_models"] == 4

    def test_the_overview_shows_a_service_with_who_serves_it(
        self, world: World, client: Client
    ) -> None:
        document = client.get("monitoring/live").json()
        (service,) = document["services"]
        assert (service["service"], service["champion"]) == (world.service, world.champion)
        assert (service["is_baseline"], service["clock"]) == (False, "wall")
        assert service["forecast"]["bar"] == _write(FIRST_BAR + (OUTCOMES - 1) * HOUR)
        assert service["fresh_until"] > service["forecast"]["bar"]
        assert document["counts"]["models"] == 4
        refusals = {row["model"]["model_id"]: row["refused_by"] for row in document["versions"]}
        assert refusals[world.refused] == ["G2 skill: noise"]
        assert refusals[world.champion] == []
        assert (document["rollouts"], document["tests"], document["next"]) == ([], [], None)

    def test_a_caller_who_has_the_overview_gets_none(self, client: Client) -> None:
        first = client.get("monitoring/live")
        again = client.get("monitoring/live", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    def test_a_page_of_services_after_the_last_is_empty(self, world: World, client: Client) -> None:
        document = client.get(f"monitoring/live?cursor={write_name_cursor(world.service)}").json()
        assert document["services"] == []
        assert client.get("monitoring/live?cursor=AAAA").status_code == 422


def _write(moment: Any) -> str:
    return str(moment.isoformat().replace("+00:00", "Z"))
