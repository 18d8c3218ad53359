"""Slices that cannot leak, whatever the horizon, the holes or the builder's options."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.data.splits import Fold, forward_folds, holdout_split, walk_forward
from mlops.errors import SplitError

HOUR = np.timedelta64(1, "h")


def times(n=1000, horizon=24):
    """Hourly forecasts whose labels take ``horizon`` bars; the last ones have none."""
    made_at = np.datetime64("2020-01-01T01", "ns") + np.arange(n) * HOUR
    known_at = made_at + horizon * HOUR
    known_at[n - horizon :] = np.datetime64("NaT")
    return made_at, known_at, np.arange(n - horizon)


def fold(fit, selection, test, horizon=24):
    made_at, known_at, _ = times(horizon=horizon)
    parts = (np.arange(*part) for part in (fit, selection, test))
    return Fold(*parts, made_at=made_at, known_at=known_at)


def test_a_fold_with_a_full_horizon_between_its_parts_is_built():
    built = fold((0, 100), (123, 200), (223, 300))
    assert (built.fit[-1], built.selection[0], built.test[-1]) == (99, 123, 299)


@pytest.mark.parametrize(
    ("fit", "selection", "test", "why"),
    [
        ((0, 101), (123, 200), (223, 300), "leaks from fit to selection: 1 labels"),
        ((0, 100), (123, 201), (223, 300), "leaks from selection to test: 1 labels"),
        ((223, 300), (123, 200), (323, 400), "leaks from fit to selection"),
        ((0, 100), (323, 400), (223, 300), "leaks from selection to test"),
        ((0, 100), (50, 200), (223, 300), "leaks"),
        ((0, 0), (123, 200), (223, 300), "fit rows are empty"),
        ((0, 100), (123, 123), (223, 300), "selection rows are empty"),
        ((0, 100), (123, 200), (223, 223), "test rows are empty"),
        ((0, 100), (123, 200), (900, 1001), "there are 1,000 bars"),
    ],
)
def test_a_fold_that_leaks_or_is_empty_cannot_be_built(fit, selection, test, why):
    with pytest.raises(SplitError, match=why):
        fold(fit, selection, test)


def test_rows_that_were_shuffled_are_refused():
    made_at, known_at, _ = times()
    shuffled = np.random.default_rng(0).permutation(100)
    with pytest.raises(SplitError, match="never shuffled"):
        Fold(shuffled, np.arange(123, 200), np.arange(223, 300), made_at, known_at)


def test_a_label_known_when_its_forecast_is_made_is_refused():
    """A bar stamped at its close instead of its open shifts labels by one bar."""
    made_at, _, _ = times()
    with pytest.raises(SplitError, match="no later than its forecast"):
        Fold(np.arange(100), np.arange(123, 200), np.arange(223, 300), made_at, made_at)


def test_a_fold_with_a_row_without_label_is_refused():
    made_at, known_at, _ = times()
    known_at[50] = np.datetime64("NaT")
    with pytest.raises(SplitError, match="no known label"):
        Fold(np.arange(100), np.arange(123, 200), np.arange(223, 300), made_at, known_at)


def test_a_folds_rows_cannot_be_changed_afterwards():
    built = fold((0, 100), (123, 200), (223, 300))
    with pytest.raises(ValueError, match="read-only"):
        built.fit[0] = 299


@settings(max_examples=60, deadline=None)
@given(
    horizon=st.integers(1, 48),
    n_folds=st.integers(1, 8),
    embargo=st.integers(0, 24),
    window=st.none() | st.integers(200, 500),
    gap=st.integers(0, 400),
)
def test_every_walk_forward_keeps_horizon_and_embargo_between_its_parts(
    horizon, n_folds, embargo, window, gap
):
    made_at, known_at, rows = times(horizon=horizon)
    rows = rows[(rows < gap) | (rows > gap + horizon)]
    options = {"embargo": timedelta(hours=embargo)}
    if window:
        options["window"] = timedelta(hours=window)
    distance = np.timedelta64(embargo, "h")
    for built in walk_forward(made_at, known_at, rows, n_folds=n_folds, **options):
        assert known_at[built.fit].max() + distance <= made_at[built.selection[0]]
        assert known_at[built.selection].max() + distance <= made_at[built.test[0]]


def test_test_blocks_follow_one_another_and_cover_the_later_half():
    made_at, known_at, rows = times()
    folds = walk_forward(made_at, known_at, rows, n_folds=4)
    assert np.array_equal(np.concatenate([f.test for f in folds]), rows[len(rows) // 2 :])


def test_an_expanding_fit_starts_at_the_first_row_and_a_sliding_one_moves():
    made_at, known_at, rows = times()
    expanding = walk_forward(made_at, known_at, rows, n_folds=3)
    sliding = walk_forward(made_at, known_at, rows, n_folds=3, window=timedelta(hours=300))
    assert [f.fit[0] for f in expanding] == [0, 0, 0]
    assert [f.test[0] - f.fit[0] for f in sliding] == [299, 299, 299]


def test_the_selection_fraction_is_the_latest_part_of_the_fit_window():
    made_at, known_at, rows = times(horizon=1)
    first = walk_forward(made_at, known_at, rows, n_folds=1, selection_fraction=0.25)[0]
    known = len(first.fit) + len(first.selection)
    assert len(first.selection) == pytest.approx(0.25 * known, abs=1)


def test_the_holdout_is_the_last_bars_and_development_labels_end_before_it():
    made_at, known_at, rows = times()
    development, holdout = holdout_split(made_at, known_at, rows)
    assert (development[-1], holdout[0], holdout[-1]) == (676, 700, 975)


def test_forward_folds_refit_on_everything_known_before_each_holdout_block():
    made_at, known_at, rows = times()
    folds = forward_folds(made_at, known_at, rows, first_test_row=700, n_folds=3)
    assert folds[0].test[0] == 700
    assert [f.test[0] - f.selection[-1] for f in folds] == [24, 24, 24]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"n_folds": 0}, "at least one fold"),
        ({"n_folds": 2000}, "no more than there are rows"),
        ({"n_folds": 3, "selection_fraction": 1.0}, "selection_fraction is 1.0"),
        ({"n_folds": 3, "first_fit_fraction": 0.0}, "first_fit_fraction is 0.0"),
        ({"n_folds": 3, "embargo": timedelta(days=90)}, "rows are empty"),
        ({"n_folds": 3, "window": timedelta(hours=30)}, "lengthen the fit window"),
    ],
)
def test_impossible_walk_forwards_are_refused_with_what_to_change(options, why):
    with pytest.raises(SplitError, match=why):
        walk_forward(*times(), **options)


def test_too_few_bars_for_a_holdout_are_refused():
    made_at, known_at, rows = times(n=30, horizon=24)
    with pytest.raises(SplitError, match="rows are empty"):
        holdout_split(made_at, known_at, rows)
