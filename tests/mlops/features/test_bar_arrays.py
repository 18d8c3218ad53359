"""Bars as arrays: changes never span a hole, and unusable numbers never get in."""

import numpy as np
import pytest

from mlops.errors import BarsError
from mlops.features.bar_arrays import BarArrays


def test_a_change_starts_at_the_previous_close(frame):
    bars = BarArrays.of(frame)
    expected = np.log(bars.close[1:] / bars.close[:-1])
    np.testing.assert_allclose(bars.change[1:], expected)


def test_after_a_hole_a_change_starts_at_the_bars_own_open(holed):
    kept, holes = holed
    bars = BarArrays.of(kept, holes)
    assert bars.change[800] == np.log(bars.close[800] / bars.open[800])
    assert bars.anchor[801] == bars.close[800]


@pytest.mark.parametrize(
    ("column", "value"),
    [("close", np.nan), ("high", np.inf), ("open", 0.0), ("low", -1.0), ("volume", -1.0)],
)
def test_an_unusable_number_is_refused_with_row_and_column(frame, column, value):
    spoiled = frame.copy()
    spoiled.iloc[7, spoiled.columns.get_loc(column)] = value
    with pytest.raises(BarsError, match=f"{column}.* row 7") as refusal:
        BarArrays.of(spoiled)
    assert (refusal.value.column, refusal.value.rows) == (column, (7,))


def test_a_missing_column_is_named(frame):
    with pytest.raises(BarsError, match="'volume' is missing"):
        BarArrays.of(frame.drop(columns="volume"))


def test_bars_without_a_zone_are_refused(frame):
    with pytest.raises(BarsError, match="in UTC"):
        BarArrays.of(frame.tz_localize(None))


def test_a_mask_of_another_length_is_refused(frame):
    with pytest.raises(BarsError, match="one flag a bar"):
        BarArrays.of(frame, np.zeros(3, dtype=bool))
