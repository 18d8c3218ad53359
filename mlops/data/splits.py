"""Splits by time into fit, selection and test rows, without leakage.

A forecast is made at ``made_at``; its label is known at ``known_at``. The rule: a label of an
earlier part must be known by the first forecast of a later part. `Fold` checks the rule, so a
split that leaks cannot be built; the functions here purge rows to meet it, and an embargo
purges more of them.

Rows are positions into one bar frame; ``made_at`` and ``known_at`` (N,) have one entry a bar.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from mlops.arrays import RowArray, TimeArray
from mlops.errors import SplitError

SELECTION_FRACTION = 0.2
"""The latest share of a fit window, by which epochs and weights are chosen."""

FIRST_FIT_FRACTION = 0.5
"""Share of the rows before the first test block of a walk-forward."""

HOLDOUT_FRACTION = 0.3
NO_EMBARGO = timedelta(0)


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Rows to fit on, to select on and to test on, in that order of time.

    Raises:
        SplitError: when a part is empty or out of order, a row is in two parts, or a fit or
            selection label is not known by the first forecast of a later part.
    """

    fit: RowArray
    selection: RowArray
    test: RowArray
    made_at: InitVar[TimeArray]
    known_at: InitVar[TimeArray]

    def __post_init__(self, made_at: TimeArray, known_at: TimeArray) -> None:
        for name in ("fit", "selection", "test"):
            object.__setattr__(self, name, _check_rows(name, getattr(self, name), len(made_at)))
        for earlier, later in (("fit", "selection"), ("fit", "test"), ("selection", "test")):
            _refuse_undated(earlier, getattr(self, earlier), made_at, known_at)
            first_forecast = made_at[getattr(self, later)].min()
            known = known_at[getattr(self, earlier)]
            if leaks := int((known > first_forecast).sum()):
                raise SplitError(
                    f"the split leaks from {earlier} to {later}: {leaks:,} labels are known only "
                    f"at {_to_text(known.max())}, after the first forecast at "
                    f"{_to_text(first_forecast)}; keep rows with known_at <= that time"
                )


def walk_forward(
    made_at: TimeArray,
    known_at: TimeArray,
    rows: RowArray,
    *,
    n_folds: int,
    selection_fraction: float = SELECTION_FRACTION,
    first_fit_fraction: float = FIRST_FIT_FRACTION,
    window: timedelta | None = None,
    embargo: timedelta = NO_EMBARGO,
) -> tuple[Fold, ...]:
    """Folds whose test blocks follow one another over the later part of ``rows``.

    Args:
        made_at: When the forecast of each bar is made (N,).
        known_at: When the label of each bar is known (N,).
        rows: Ascending positions of rows with a label (n,).
        n_folds: Test blocks, each with its own fit and selection rows before it.
        selection_fraction: The latest share of each fit window, kept for selection.
        first_fit_fraction: The share of ``rows`` before the first test block.
        window: Length of a sliding fit window; None lets it grow from the first row.
        embargo: Distance between the last known label and the first forecast after it.

    Raises:
        SplitError: when a fraction is not between 0 and 1 or too few rows precede a block.

    >>> made_at = np.datetime64("2024-01-01T00", "h") + np.arange(100)
    >>> known_at = made_at + 2
    >>> folds = walk_forward(made_at, known_at, np.arange(98), n_folds=2)
    >>> for fold in folds:
    ...     print(fold.fit[-1], fold.selection[0], fold.selection[-1], fold.test[0], fold.test[-1])
    36 38 47 49 73
    56 58 72 74 97
    """
    _refuse_fraction("first_fit_fraction", first_fit_fraction)
    rows = _check_rows("walk-forward", rows, len(made_at))
    first_test_row = int(rows[int(len(rows) * first_fit_fraction)])
    return forward_folds(
        made_at,
        known_at,
        rows,
        first_test_row=first_test_row,
        n_folds=n_folds,
        selection_fraction=selection_fraction,
        window=window,
        embargo=embargo,
    )


def forward_folds(
    made_at: TimeArray,
    known_at: TimeArray,
    rows: RowArray,
    *,
    first_test_row: int,
    n_folds: int,
    selection_fraction: float = SELECTION_FRACTION,
    window: timedelta | None = None,
    embargo: timedelta = NO_EMBARGO,
) -> tuple[Fold, ...]:
    """Folds that cover ``rows`` from ``first_test_row`` to the end.

    `walk_forward` explains the other arguments.

    Raises:
        SplitError: as `walk_forward`.
    """
    _refuse_fraction("selection_fraction", selection_fraction)
    rows = _check_rows("split", rows, len(made_at))
    tested = rows[rows >= first_test_row]
    if not 1 <= n_folds <= len(tested):
        raise SplitError(
            f"{n_folds} folds over {len(tested):,} test rows; ask for at least one fold and "
            "no more than there are rows"
        )
    blocks = np.array_split(tested, n_folds)
    return tuple(
        _build_fold(
            block,
            rows,
            made_at=made_at,
            known_at=known_at,
            selection_fraction=selection_fraction,
            window=window,
            embargo=np.timedelta64(embargo),
        )
        for block in blocks
    )


def holdout_split(
    made_at: TimeArray,
    known_at: TimeArray,
    rows: RowArray,
    *,
    fraction: float = HOLDOUT_FRACTION,
    embargo: timedelta = NO_EMBARGO,
) -> tuple[RowArray, RowArray]:
    """Development rows, and the holdout rows in the last ``fraction`` of the bars.

    Development rows are those whose label is known by the first holdout forecast.

    Raises:
        SplitError: when either part is empty or the fraction is not between 0 and 1.
    """
    _refuse_fraction("fraction", fraction)
    rows = _check_rows("holdout", rows, len(made_at))
    holdout = rows[rows >= round(len(made_at) * (1.0 - fraction))]
    _check_rows("holdout", holdout, len(made_at))
    development = _known_by(made_at[holdout[0]] - np.timedelta64(embargo), rows, known_at)
    return _check_rows("development", development, len(made_at)), holdout


def _build_fold(
    test: RowArray,
    rows: RowArray,
    *,
    made_at: TimeArray,
    known_at: TimeArray,
    selection_fraction: float,
    window: timedelta | None,
    embargo: np.timedelta64,
) -> Fold:
    start = made_at[test[0]]
    history = _known_by(start - embargo, rows, known_at)
    if window is not None:
        history = history[made_at[history] > start - np.timedelta64(window)]
    n_selection = max(1, round(len(history) * selection_fraction))
    selection = history[-n_selection:]
    _check_rows("selection", selection, len(made_at))
    fit = _known_by(made_at[selection[0]] - embargo, history, known_at)
    return Fold(fit, selection, test, made_at=made_at, known_at=known_at)


def _known_by(moment: np.datetime64, rows: RowArray, known_at: TimeArray) -> RowArray:
    return rows[known_at[rows] <= moment]


def _check_rows(name: str, rows: RowArray, n_bars: int) -> RowArray:
    """A read-only copy of ``rows``, in ascending order and within the bars."""
    checked = np.array(rows, dtype=np.intp)
    if not len(checked):
        raise SplitError(
            f"the {name} rows are empty; load a longer period, lengthen the fit window "
            "(data_window_days), or lower the horizon, the embargo or the number of folds"
        )
    if checked.ndim != 1 or (np.diff(checked) <= 0).any():
        raise SplitError(f"the {name} rows are not in ascending order; rows are never shuffled")
    if checked[0] < 0 or checked[-1] >= n_bars:
        raise SplitError(
            f"the {name} rows run from {checked[0]} to {checked[-1]} but there are {n_bars:,} bars"
        )
    checked.flags.writeable = False
    return checked


def _refuse_undated(name: str, rows: RowArray, made_at: TimeArray, known_at: TimeArray) -> None:
    if np.isnat(known_at[rows]).any():
        raise SplitError(f"a {name} row has no known label; pass rows whose label is valid")
    if (known_at[rows] <= made_at[rows]).any():
        raise SplitError(
            f"a {name} label is known no later than its forecast is made; known_at is the close "
            "of the last bar a label uses"
        )


def _refuse_fraction(name: str, value: Any) -> None:
    if not 0.0 < value < 1.0:
        raise SplitError(f"{name} is {value}; it must lie between 0 and 1")


def _to_text(moment: np.datetime64) -> str:
    return str(np.datetime_as_string(moment, unit="m"))
