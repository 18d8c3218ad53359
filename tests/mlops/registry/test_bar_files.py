"""Bars of a file are kept for every process; what replaces them must go on from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops.data.file_options import BarsChoice
from mlops.data.simulator import simulate_bars
from mlops.errors import BarsError, SourceError
from mlops.registry import bar_files as module
from mlops.registry.bar_files import (
    encode_bars,
    identify_file,
    keep_file,
    load_chosen_bars,
    read_kept_bars,
)
from mlops.service import Service, Timeframe
from mlops.settings import FileClock
from mlops.store import Store

from .conftest import SERVICE

BTC = replace(SERVICE, venue="file")
HOURS = simulate_bars(500, seed=1)
LIKE = {"check_freq": False, "check_index_type": False}
PRICES = ["open", "high", "low", "close"]
Keep = Callable[..., bool]


@pytest.fixture
def choice(tmp_path: Path) -> BarsChoice:
    return BarsChoice(bars_file=str(tmp_path / "bars.parquet"), file_clock=FileClock.WALL)


@pytest.fixture
def keep(store: Store, choice: BarsChoice, tmp_path: Path) -> Keep:
    """Writes a frame to the file and keeps its bars; each write is a later one."""
    written = [0]

    def write_and_keep(frame: pd.DataFrame, service: Service = BTC) -> bool:
        path = Path(str(choice.bars_file))
        frame.to_parquet(path)
        written[0] += 1
        os.utime(path, ns=(written[0], written[0]))
        return keep_file(store, service, choice, cache_root=tmp_path)

    return write_and_keep


def kept(store: Store, choice: BarsChoice, service: Service = BTC) -> pd.DataFrame:
    return read_kept_bars(store, identify_file(service, choice))


def test_a_file_that_grows_or_whose_last_bar_is_revised_replaces_the_kept_bars(
    store: Store, choice: BarsChoice, keep: Keep
) -> None:
    revised = HOURS.iloc[:401].copy()
    revised.loc[revised.index[399], "close"] = revised["low"].iloc[399]
    for frame in (HOURS.iloc[:400], revised, HOURS, HOURS.iloc[100:]):
        assert keep(frame)
        pd.testing.assert_frame_equal(kept(store, choice), frame, **LIKE)
    assert not keep(HOURS.iloc[100:])


def test_prices_that_are_adjusted_as_a_whole_are_those_of_the_same_market(
    store: Store, choice: BarsChoice, keep: Keep
) -> None:
    keep(HOURS)
    halved = HOURS.copy()
    halved.loc[halved.index[:250], PRICES] /= 2
    assert keep(halved)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (simulate_bars(600, seed=2), "closes moved otherwise"),
        (HOURS.iloc[:300], "its bars are kept until 2020-01-21 20:00"),
        (HOURS.shift(freq="30min"), r"only 0 of the 500 bars"),
    ],
    ids=["another market", "cut short", "other hours"],
)
def test_a_file_that_does_not_go_on_leaves_the_kept_bars(
    store: Store, choice: BarsChoice, keep: Keep, frame: pd.DataFrame, why: str
) -> None:
    keep(HOURS)
    with pytest.raises(BarsError, match=why) as refused:
        keep(frame)
    assert "pass bars_file=" in str(refused.value)
    pd.testing.assert_frame_equal(kept(store, choice), HOURS, **LIKE)


def test_a_file_that_holds_too_few_bars_is_refused_as_in_a_training(
    store: Store, choice: BarsChoice, keep: Keep
) -> None:
    keep(HOURS.iloc[:300])
    thin = pd.concat([HOURS.iloc[:300], HOURS.shift(freq="2000h")])
    with pytest.raises(BarsError, match="at least 50%"):
        keep(thin)
    assert len(kept(store, choice)) == 300


def test_a_file_that_is_being_written_is_left_for_later(
    store: Store, choice: BarsChoice, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(HOURS.iloc[:300])
    load = module.load_chosen_bars

    def write_meanwhile(*args: Any, **options: Any) -> Any:
        bars = load(*args, **options)
        os.utime(str(choice.bars_file), ns=(99, 99))
        return bars

    monkeypatch.setattr(module, "load_chosen_bars", write_meanwhile)
    with pytest.raises(SourceError, match="changed while it was read"):
        keep(HOURS)
    assert len(kept(store, choice)) == 300


def test_two_symbols_of_one_path_keep_their_own_bars(
    store: Store, choice: BarsChoice, keep: Keep
) -> None:
    eth, other = replace(BTC, symbol="ETH/USD"), simulate_bars(500, seed=2)
    keep(HOURS)
    keep(other, eth)
    pd.testing.assert_frame_equal(kept(store, choice), HOURS, **LIKE)
    pd.testing.assert_frame_equal(kept(store, choice, eth), other, **LIKE)


def test_a_machine_without_the_file_has_its_bars_and_what_was_found_of_them(
    store: Store, choice: BarsChoice, keep: Keep, tmp_path: Path
) -> None:
    keep(pd.concat([HOURS, HOURS.iloc[[3, 4]]]))
    Path(str(choice.bars_file)).unlink()
    bars = load_chosen_bars(
        lambda: store, BTC, choice, cache_root=tmp_path, start=HOURS.index[100].to_pydatetime()
    )
    pd.testing.assert_frame_equal(bars.frame, HOURS.iloc[100:], **LIKE)
    assert bars.quality.dropped == {"duplicate": 2}
    assert bars.provenance.label == "BTC/USD from bars.parquet"


def test_a_file_that_is_nowhere_is_refused_with_what_to_do(
    store: Store, choice: BarsChoice, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="no bars of it in the store; pass bars_file="):
        load_chosen_bars(lambda: store, BTC, choice, cache_root=tmp_path)


@pytest.mark.parametrize("newest", [None, 1, 9_000])
def test_long_files_come_back_from_their_chunks(
    store: Store, choice: BarsChoice, keep: Keep, newest: int | None
) -> None:
    frame = simulate_bars(20_000, seed=3)
    keep(frame)
    found = read_kept_bars(store, identify_file(BTC, choice), newest)
    assert len(found) >= (newest or len(frame))
    pd.testing.assert_frame_equal(found, frame.iloc[-len(found) :], **LIKE)


def test_bars_that_leave_at_the_beginning_change_one_chunk() -> None:
    frame = simulate_bars(20_000, seed=3)
    whole, rest = (encode_bars(part, Timeframe("1h")) for part in (frame, frame.iloc[10:]))
    assert len(set(whole) - set(rest)) == 1
