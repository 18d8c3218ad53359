"""Slices: development walked forward, then a holdout; a refit has young bars only."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from mlops.data.simulator import simulate_bars
from mlops.data.splits import Fold
from mlops.errors import InsufficientData, SplitError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.search.config import TrainingConfig
from mlops.search.slices import Slices, cut_refit_slices, cut_slices
from mlops.service import Target, Timeframe

N, HORIZON = 1200, 24
CONFIG = TrainingConfig(refits=3, holdout_refits=4)


@pytest.fixture(scope="module")
def daily() -> Dataset:
    target = TargetSpec(Target.VOLATILITY, HORIZON)
    return Dataset(simulate_bars(N, seed=2), timeframe=Timeframe("1h"), target=target)


@pytest.fixture(scope="module")
def slices(daily: Dataset) -> Slices:
    return cut_slices(daily, CONFIG, min_bars=N)


def rows_of(folds: Iterable[Fold]) -> np.ndarray:
    return np.concatenate([fold.test for fold in folds])


def test_the_holdout_is_the_last_share_of_the_bars(daily: Dataset, slices: Slices) -> None:
    held = rows_of(slices.holdout)
    assert held[0] == round(0.7 * N)
    assert held[-1] == N - 1 - HORIZON
    assert (np.diff(held) == 1).all()
    assert len(slices.holdout) == 4


def test_no_development_label_is_known_after_the_holdout_begins(
    daily: Dataset, slices: Slices
) -> None:
    first = daily.labels.made_at[slices.holdout[0].test[0]]
    assert (daily.labels.known_at[rows_of(slices.development)] <= first).all()


def test_each_row_is_tested_by_one_fold(slices: Slices) -> None:
    folds = (*slices.development, *slices.holdout)
    numbers = slices.fold_of_row(N)
    for number, fold in enumerate(folds):
        assert (numbers[fold.test] == number).all()
    assert (numbers >= 0).sum() == len(rows_of(folds))


def test_a_fit_and_its_first_forecast_are_a_horizon_apart(slices: Slices) -> None:
    assert slices.gap_bars == HORIZON


def test_no_fit_window_is_longer_than_asked(daily: Dataset) -> None:
    sliding = cut_slices(daily, CONFIG.model_copy(update={"data_window_days": 10}), min_bars=N)
    for fold in (*sliding.development, *sliding.holdout):
        assert fold.test[0] - fold.fit[0] < 10 * 24


def test_fewer_bars_than_asked_are_refused(daily: Dataset) -> None:
    since = daily.labels.made_at[N // 2]
    with pytest.raises(InsufficientData, match="at least 1,201 bars but got 1,200"):
        cut_slices(daily, CONFIG, min_bars=N + 1)
    with pytest.raises(InsufficientData):
        cut_refit_slices(daily, CONFIG, since, min_bars=N + 1)


def test_a_refit_forecasts_only_what_was_made_after_the_cut(daily: Dataset) -> None:
    since = daily.labels.made_at[1000]
    young = cut_refit_slices(daily, CONFIG, since, min_bars=N)
    assert young.development == ()
    assert rows_of(young.holdout)[0] == 1001
    assert (daily.labels.made_at[rows_of(young.holdout)] > since).all()
    assert young.gap_bars == HORIZON


def test_a_few_new_bars_get_as_many_refits_as_there_are(daily: Dataset) -> None:
    young = cut_refit_slices(daily, CONFIG, daily.labels.made_at[N - HORIZON - 3], min_bars=N)
    assert [len(fold.test) for fold in young.holdout] == [1, 1]


def test_a_refit_without_a_new_bar_is_refused(daily: Dataset) -> None:
    with pytest.raises(SplitError, match="refit when new bars are known"):
        cut_refit_slices(daily, CONFIG, daily.labels.made_at[N - 1], min_bars=N)
