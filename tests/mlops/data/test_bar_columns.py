"""Columns of bars are found by their names, in any table that has names."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from mlops.data.bar_columns import COLUMNS, require_columns
from mlops.errors import BarsError
from tests.mlops.data.conftest import make_bars

BARS = make_bars(5)


@pytest.mark.parametrize(
    "name", ["{}", " {} ", "<{}>", "< {} >"], ids=["plain", "blanks", "brackets", "both"]
)
def test_names_are_tidied(name):
    table = require_columns(BARS.rename(columns=lambda column: name.format(column.upper())))
    assert list(table.columns) == list(COLUMNS)


@pytest.mark.parametrize("symbol_first", [True, False])
def test_names_in_pairs_of_one_symbol_lose_the_symbol(symbol_first):
    levels = [["BTC-USD"], [name.title() for name in COLUMNS]]
    pairs = pd.MultiIndex.from_product(levels if symbol_first else levels[::-1])
    pd.testing.assert_frame_equal(require_columns(BARS.set_axis(pairs, axis=1)), BARS)


def test_a_time_beside_the_pairs_keeps_its_name():
    pairs = pd.MultiIndex.from_product([COLUMNS, ["BTC-USD"]], names=["Price", "Ticker"])
    table = require_columns(BARS.set_axis(pairs, axis=1).reset_index())
    assert list(table.columns) == ["open_time", *COLUMNS]


def test_pairs_of_several_symbols_are_refused_by_name():
    both = pd.concat({"BTC": BARS, "ETH": BARS}, axis=1)
    with pytest.raises(BarsError, match="belong to 2 symbols: BTC, ETH; pass those of one") as told:
        require_columns(both)
    assert "frame.xs('BTC', axis=1, level=0)" in str(told.value)
    assert len(require_columns(both.xs("BTC", axis=1, level=0))) == 5


def test_tables_of_other_kinds_are_read():
    rows = BARS.reset_index()
    for table in (
        pa.Table.from_pandas(rows),
        rows.to_dict("records"),
        rows.to_dict("list"),
        list(rows.itertuples(index=False)),
        rows.to_records(index=False),
    ):
        assert set(COLUMNS) <= set(require_columns(table).columns)


def test_columns_of_different_length_are_no_table():
    with pytest.raises(BarsError, match="got dict that is no table"):
        require_columns({"open": [1.0], "close": [1.0, 2.0]})
