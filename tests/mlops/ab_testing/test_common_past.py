"""The common past of two versions comes from kept records, then from rows before the test."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlops.ab_testing.common_past import fitted_until, read_common_past, read_kept_records
from mlops.arrays import naive_utc
from mlops.errors import BundleError
from mlops.models import manifest
from mlops.store import get_route
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import record_table
from tests.mlops.ab_testing.stage import CHALLENGER, CHAMPION, HOUR, START, VOLATILITY, Stage
from tests.mlops.rollout.rows import make_version


def record(hours: range, said: Any, *, baseline: float = 0.5) -> Forecasts:
    """Forecasts of bars counted from the test's first, which is 0; all outcomes are 0."""
    size = len(hours)
    closed = naive_utc(START, "ns") + np.array([n + 1 for n in hours]) * np.timedelta64(1, "h")
    return Forecasts(
        target=VOLATILITY.target,
        horizon=1,
        made_at=closed,
        y=np.zeros(size),
        forecast=np.broadcast_to(np.asarray(said, dtype=np.float64), (size,)).copy(),
        persistence=np.ones(size),
        baseline=np.full(size, baseline),
        next_return=np.zeros(size),
        fold=np.zeros(size, dtype=np.int64),
    )


def past_of(stage: Stage, first: Forecasts | None, second: Forecasts | None) -> Any:
    return read_common_past(
        stage.store, stage.arms, champion=first, challenger=second, before=START
    )


def test_kept_records_are_paired_on_their_common_bars(stage: Stage) -> None:
    past = past_of(stage, record(range(-50, -10), 0.3), record(range(-30, 0), 0.1))
    assert len(past.closed_at) == 20
    assert past.champion_loss == pytest.approx(np.full(20, 0.09))
    assert past.challenger_loss == pytest.approx(np.full(20, 0.01))


def test_rows_of_the_store_follow_and_what_is_kept_comes_first(stage: Stage) -> None:
    stage.begin_service()
    stage.forecast(range(-20, 10), 0.9, 0.1)
    stage.settle(range(-20, 10))
    past = past_of(stage, record(range(-40, -10), 0.3), record(range(-40, -10), 0.1))
    assert len(past.closed_at) == 40
    assert past.champion_loss[:30] == pytest.approx(np.full(30, 0.09))
    assert past.champion_loss[30:] == pytest.approx(np.full(10, 0.81))


def test_nothing_of_the_test_itself_is_read(stage: Stage) -> None:
    stage.begin_service()
    stage.forecast(range(10), 0.9, 0.1)
    stage.settle(range(10))
    past = past_of(stage, record(range(-5, 20), 0.3), record(range(-5, 20), 0.1))
    assert past.closed_at.max() <= naive_utc(START, "us")
    assert len(past.closed_at) == 5


def test_rows_that_an_arm_was_fitted_on_are_left_out(stage: Stage) -> None:
    stage.begin_service()
    stage.fitted_until = START - 5 * HOUR
    stage.forecast(range(-20, 0), 0.9, 0.1)
    stage.settle(range(-20, 0))
    assert len(past_of(stage, None, None).closed_at) == 6


def test_without_a_common_record_there_is_no_past(stage: Stage) -> None:
    assert len(past_of(stage, record(range(-50, 0), 0.3), None).closed_at) == 0


def bundle_of(table: Any) -> Any:
    tensors = {manifest.REFERENCE: table}
    return SimpleNamespace(tensors=tensors.__getitem__, service=VOLATILITY)


def test_the_baselines_record_is_what_the_other_keeps_beside_its_own(stage: Stage) -> None:
    stage.begin_service()
    route = get_route(stage.store, VOLATILITY.key)
    champion = make_version(CHAMPION, 1, model_type="persistence", service=VOLATILITY.key)
    challenger = make_version(CHALLENGER, 2, service=VOLATILITY.key)
    kept = record_table(record(range(-9, 0), 0.1, baseline=0.7))
    first, second = read_kept_records(lambda _: bundle_of(kept), route, champion, challenger)
    assert first.forecast == pytest.approx(np.full(9, 0.7))
    assert second.forecast == pytest.approx(np.full(9, 0.1))
    swapped = read_kept_records(lambda _: bundle_of(kept), route, challenger, champion)
    assert swapped[1].forecast == pytest.approx(np.full(9, 0.7))
    elsewhere = replace(route, baseline="another")
    first, _ = read_kept_records(lambda _: bundle_of(kept), elsewhere, champion, challenger)
    assert first is None


def test_a_bundle_that_is_gone_leaves_no_record(stage: Stage) -> None:
    stage.begin_service()
    route = get_route(stage.store, VOLATILITY.key)
    version = make_version(CHALLENGER, 2, service=VOLATILITY.key)

    def removed(_: Any) -> Any:
        raise BundleError("the bundle was removed")

    assert read_kept_records(removed, route, version, version) == (None, None)


def test_a_naive_version_was_fitted_on_nothing() -> None:
    later = START + timedelta(days=3)
    trained = make_version("a", 1, trained_until=later)
    assert fitted_until(trained) == later
    assert fitted_until(replace(trained, notes={"fitted_until": START.isoformat()})) == START
    assert fitted_until(replace(trained, model_type="persistence")) is None
    claimed = replace(trained, model_type="persistence", claims_only=True)
    assert fitted_until(claimed) == later
