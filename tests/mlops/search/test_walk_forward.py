"""Walk-forward: only test rows are forecast, by a fit that had not seen them."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.features.dataset import Dataset
from mlops.models.base import FitContext, default_recipe
from mlops.models.small_networks import compact_config
from mlops.search.tuning import skill_over_baseline
from mlops.search.walk_forward import NO_FOLD, run_walk_forward

CONTEXT = FitContext(seed=1)
QUICK = {"epochs": 2, "batch_size": 128}


def _network(dataset, **config):
    start = compact_config("lstm", dataset.target)
    return default_recipe("lstm", dataset.target, {**start, **QUICK, **config})


def test_exactly_the_test_rows_are_forecast(dataset, folds):
    walk = run_walk_forward(default_recipe("linear", dataset.target), dataset, folds, CONTEXT)
    tested = np.concatenate([fold.test for fold in folds])
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(walk.forecasts)), tested)
    for number, fold in enumerate(folds):
        assert (walk.fold_of_row[fold.test] == number).all()
    assert (np.delete(walk.fold_of_row, tested) == NO_FOLD).all()


def test_a_fold_knows_nothing_of_what_comes_later(dataset, folds):
    """Bars changed from the last test block on leave the forecasts before it alone."""
    changed = dataset.frame.copy()
    first = int(folds[-1].test[0])
    changed.iloc[first:] *= 2.0
    other = Dataset(changed, timeframe=dataset.timeframe, target=dataset.target)
    recipe = _network(dataset)
    before, after = (run_walk_forward(recipe, data, folds, CONTEXT) for data in (dataset, other))
    np.testing.assert_array_equal(before.forecasts[:first], after.forecasts[:first])
    assert not np.array_equal(before.forecasts[first:], after.forecasts[first:], equal_nan=True)


def test_the_same_seed_walks_the_same_way(dataset, folds):
    walks = [run_walk_forward(_network(dataset), dataset, folds, CONTEXT) for _ in range(2)]
    np.testing.assert_array_equal(walks[0].forecasts, walks[1].forecasts)


def test_each_fold_is_reported_with_its_history(dataset, folds):
    reported = []
    walk = run_walk_forward(
        _network(dataset), dataset, folds, CONTEXT, on_fold=lambda *fold: reported.append(fold)
    )
    assert reported == list(enumerate(walk.histories))


def test_no_folds_are_refused(dataset):
    with pytest.raises(ValueError, match="at least one fold"):
        run_walk_forward(default_recipe("zero", dataset.target), dataset, (), CONTEXT)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_lstm_sees_an_interaction_that_ridge_misses(planted, folds_of, seed):
    """Of a planted R2 of 2 % on 6,000 bars; a useless forecast's skill has s.e. of about 0.3 %."""
    data = planted(6000, seed=seed, r2=0.02, form="interaction")
    folds = folds_of(data, 2)
    network = default_recipe("lstm", data.target, compact_config("lstm", data.target))
    linear = default_recipe("linear", data.target)
    skill, blind = (
        skill_over_baseline(data, run_walk_forward(recipe, data, folds, CONTEXT))
        for recipe in (network, linear)
    )
    assert skill > 0.004
    assert blind < 0.004
