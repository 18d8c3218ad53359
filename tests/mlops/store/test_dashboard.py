"""What the dashboard counts is what numpy makes of the same rows, whatever the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from mlops.arrays import FloatArray
from mlops.service import Service
from mlops.stats.metrics import direction_figures
from mlops.store import ForecastRow, ModelVersion, Status, Store, Why
from mlops.store.dashboard import (
    MOST_BARS,
    ErrorSums,
    LiveErrors,
    count_deployments,
    count_models,
    read_drift_words,
    read_live_errors,
)
from mlops.store.forecasts import Role, record_forecasts
from mlops.store.leases import acquire_lease
from mlops.store.monitor_runs import CheckRow, start_watch, stop_watch, write_check
from mlops.store.outcome_writes import OutcomeBatch, ServiceOutcomeChanges, write_outcomes
from mlops.store.outcomes import read_matched
from mlops.store.rollouts import Rollout, insert_rollout, move_rollout, request_abort
from mlops.store.routes import begin_route, change_route, get_route
from mlops.store.schema import Phase
from mlops.store.sql import store_time
from mlops.store.triggers import training_lease
from mlops.validation.forecasts import Forecasts

from .conftest import NOW, SERVICE
from .test_rollouts import ANNA, ROLLOUT, arrow_to

Add = Callable[..., ModelVersion]
HOUR = timedelta(hours=1)
BASELINE, OTHER = "persistence_BTC_1", "lstm_BTC_2"
MONTH_HOURS = 720.0


def write_bars(
    store: Store,
    count: int,
    *,
    service: str = SERVICE,
    model_id: str = BASELINE,
    role: Role = Role.RECORD,
    seed: int = 7,
    known: int | None = None,
    step: timedelta = HOUR,
    first: int = 0,
) -> None:
    """Forecasts of a version of so many bars, with outcomes of the first ``known`` of them."""
    rng = np.random.default_rng(seed)
    truth, said = rng.normal(size=(2, first + count))[:, first:]
    opens = [NOW + number * step for number in range(first, first + count)]
    rows = [
        ForecastRow(service, at, model_id, role, float(value), None, None, at, 1, "r0", "b" * 64)
        for at, value in zip(opens, truth + said, strict=True)
    ]
    assert record_forecasts(store, rows) == count
    write_known(store, service, opens[:known], truth[:known])


def write_known(store: Store, service: str, opens: Sequence[Any], truth: FloatArray) -> None:
    """Known outcomes, with half of the value as what was known before."""
    bar = np.array([at.replace(tzinfo=None) for at in opens], dtype="datetime64[us]")
    empty, none = np.empty(0, dtype="datetime64[us]"), np.empty(0)
    nothing = OutcomeBatch(empty, empty, none, none, none, none)
    new = OutcomeBatch(bar, bar, truth, truth / 2 + 0.1, truth, truth)
    changes = ServiceOutcomeChanges(
        service, new, nothing, nothing, np.empty(0, dtype=np.int64), empty
    )
    write_outcomes(store, [changes], at=NOW)


def read_errors(store: Store, most_hours: float = MONTH_HOURS) -> dict[str, LiveErrors]:
    with store.read() as connection:
        found = read_live_errors(connection, most_hours=most_hours)
    return {row.model_id: row for row in found}


def begin(store: Store, add: Add, service: str) -> str:
    """A further service on a baseline of its own."""
    row = add(f"persistence_{service}", service=service)
    with store.write() as connection:
        begin_route(connection, service, row.model_id, Why(NOW))
    return row.model_id


@pytest.mark.parametrize("target", ["volatility", "return", "price", "direction"])
def test_errors_and_hits_are_those_of_the_same_rows_in_numpy(
    store: Store, add: Add, target: str
) -> None:
    service = f"sample.return.1h.{target}.24"
    model_id = begin(store, add, service)
    write_bars(store, 60, service=service, model_id=model_id, known=50)
    sums = read_errors(store)[model_id].own
    rows = read_matched(store, service)
    assert sums.bars == len(rows) == 50
    error = float(np.mean((rows.forecast - rows.value) ** 2))
    assert sums.relative_mse == pytest.approx(error / np.var(rows.value))
    record = Forecasts(
        target=Service.parse(service).target,
        horizon=24,
        made_at=rows.bar,
        y=np.abs(rows.value) if target == "price" else rows.value,
        forecast=rows.forecast,
        persistence=np.abs(rows.persistence) if target == "price" else rows.persistence,
        baseline=rows.baseline,
        next_return=rows.next_return,
        fold=np.zeros(len(rows), dtype=np.int64),
    )
    if target != "price":
        assert sums.accuracy == pytest.approx(direction_figures(*record.moves()).accuracy)
    else:
        moves = (rows.value - rows.persistence, rows.forecast - rows.persistence)
        assert sums.accuracy == pytest.approx(direction_figures(*moves).accuracy)


def test_only_the_newest_known_outcomes_count(began: Store) -> None:
    write_bars(began, MOST_BARS + 40, known=MOST_BARS + 30)
    sums = read_errors(began)[BASELINE].own
    rows = read_matched(began, SERVICE)
    newest = rows.value[-MOST_BARS:]
    assert sums.bars == MOST_BARS
    assert sums.outcomes == pytest.approx(float(newest.sum()))


def test_outcomes_that_are_older_than_the_window_do_not_count(began: Store) -> None:
    write_bars(began, 60, step=timedelta(days=1))
    assert read_errors(began)[BASELINE].own.bars == 31
    assert read_errors(began, most_hours=40 * 24)[BASELINE].own.bars == 41


def test_a_version_that_went_live_lately_has_the_record_of_its_service_beside_its_own(
    began: Store, add: Add
) -> None:
    add(OTHER, 2)
    write_bars(began, 30)
    write_bars(began, 3, model_id=OTHER, first=30)
    found = read_errors(began)[OTHER]
    assert (found.own.bars, found.record.bars) == (3, 33)
    shadow = read_errors(began)[BASELINE]
    assert (shadow.own.bars, shadow.record.bars) == (30, 33)


def test_versions_that_are_not_deployed_and_retired_services_have_no_errors(
    began: Store, add: Add
) -> None:
    add(OTHER, 2, status=Status.CHALLENGER)
    write_bars(began, 30)
    write_bars(began, 30, model_id=OTHER, role=Role.SHADOW)
    assert set(read_errors(began)) == {BASELINE}
    route = get_route(began, SERVICE)
    assert route is not None
    with began.write() as connection:
        change_route(connection, route, replace(route, retired_at=NOW), "retire", Why(NOW))
    assert read_errors(began) == {}


def test_a_forecast_that_calls_no_side_is_as_accurate_as_the_more_common_side() -> None:
    quiet = ErrorSums(10, 1.0, 0.0, 10.0, moves=8, ups=2, calls=0, hits=0)
    assert quiet.accuracy == 0.75
    assert replace(quiet, calls=4, hits=1).accuracy == 0.25
    assert replace(quiet, moves=0, ups=0).accuracy is None


def test_outcomes_that_do_not_vary_have_no_relative_error(began: Store) -> None:
    write_bars(began, 30, known=0)
    write_known(began, SERVICE, [NOW + n * HOUR for n in range(30)], np.full(30, 0.1))
    assert read_errors(began)[BASELINE].own.relative_mse is None


def test_versions_trainings_and_tests_are_counted(began: Store, add: Add) -> None:
    add(OTHER, 2, status=Status.REFUSED)
    acquire_lease(began, training_lease(SERVICE), "host", seconds=30.0)
    acquire_lease(began, "controller", "host", seconds=30.0)
    with began.read() as connection:
        counts = count_models(connection)
    assert (counts.versions, counts.deployed, counts.training, counts.running_tests) == (2, 1, 1, 0)


def end(store: Store, row: Rollout, phase: Phase, *, at: Any) -> None:
    route = get_route(store, SERVICE)
    assert route is not None
    with store.write() as connection:
        move_rollout(connection, row, route, arrow_to(phase), term=1, at=at)


def test_only_rollouts_that_were_to_go_live_began_and_ended_lately_count(
    began: Store, add: Add
) -> None:
    add(OTHER, 2, status=Status.CHALLENGER)
    with began.read() as connection:
        now = store_time(connection)
    asked = [
        ({}, Phase.DONE, now),
        ({}, Phase.FAILED, now),
        ({"strategy": "shadow"}, Phase.DONE, now),
        ({"strategy": "ab_test"}, Phase.FAILED, now),
        ({"phase": Phase.WAITING}, Phase.FAILED, now),
        ({}, Phase.FAILED, now - timedelta(days=31)),
    ]
    for number, (changes, phase, at) in enumerate(asked):
        row = replace(ROLLOUT, id=f"r{number}", **changes)  # type: ignore[arg-type]
        with began.write() as connection:
            insert_rollout(connection, row, ANNA)
        end(began, row, phase, at=at)
    with began.write() as connection:
        insert_rollout(connection, replace(ROLLOUT, id="aborted"), ANNA)
    end(began, request_abort(began, "aborted", ANNA), Phase.FAILED, at=now)
    with began.read() as connection:
        found = count_deployments(connection)
    assert (found.done, found.ended) == (1, 2)


def test_an_abort_by_the_monitor_is_no_abort_by_a_person(began: Store, add: Add) -> None:
    add(OTHER, 2, status=Status.CHALLENGER)
    with began.write() as connection:
        insert_rollout(connection, ROLLOUT, ANNA)
        now = store_time(connection)
    lost = Why(now, actor="monitor", reason="its skill is lost")
    end(began, request_abort(began, ROLLOUT.id, lost), Phase.FAILED, at=now)
    with began.read() as connection:
        assert count_deployments(connection).ended == 1


def look(store: Store, model_id: str, hour: int, word: str, *, official: bool = True) -> None:
    row = CheckRow(
        service=SERVICE,
        model_id=model_id,
        bar=NOW + hour * HOUR,
        at=NOW + hour * HOUR,
        recommendation=word,
        official=official,
        report={"score": hour / 100},
        performance=None,
        state={},
    )
    with store.write() as connection:
        assert write_check(connection, row)


def read_words(store: Store) -> list[tuple[str, str, float]]:
    with store.read() as connection:
        words = read_drift_words(connection, quiet="NO_ACTION_NEEDED")
    return [(word.model_id, word.recommendation, word.report["score"]) for word in words]


def test_the_newest_deciding_look_at_a_champion_counts(began: Store) -> None:
    assert read_words(began) == []
    look(began, BASELINE, 1, "RETRAIN_SOON")
    look(began, BASELINE, 2, "MONITOR_CLOSELY", official=False)
    assert read_words(began) == [(BASELINE, "RETRAIN_SOON", 0.01)]
    look(began, BASELINE, 3, "NO_ACTION_NEEDED")
    assert read_words(began) == []


def test_a_version_counts_while_it_is_watched(began: Store, add: Add) -> None:
    add(OTHER, 2, status=Status.RETIRED)
    look(began, OTHER, 1, "RETRAIN_SOON")
    assert read_words(began) == []
    start_watch(began, OTHER, 1.0, ANNA)
    assert read_words(began) == [(OTHER, "RETRAIN_SOON", 0.01)]
    stop_watch(began, OTHER, ANNA)
    assert read_words(began) == []
