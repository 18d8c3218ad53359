"""A service has the bars that its champion was trained on; a caller may choose others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.data.calendar import load_calendar
from mlops.data.file_options import BarsChoice
from mlops.data.simulator import simulate_bars
from mlops.registry.markets import (
    MarketBook,
    adopt_noted_file,
    choose_bars,
    keep_chosen_file,
    note_calendar,
    note_market,
    read_market,
    set_market_of,
)
from mlops.service import Service
from mlops.settings import FileClock
from mlops.store import ModelVersion, Store, Why, get_route
from mlops.store.routes import begin_route, change_route
from tests.stores import NOW

FILED = Service.of(venue="file", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24)
WHY = Why(NOW, actor="train")


@pytest.fixture
def choice(tmp_path: Path) -> BarsChoice:
    path = tmp_path / "bars.parquet"
    simulate_bars(300, seed=1).to_parquet(path)
    return BarsChoice(
        bars_file=str(path), file_clock=FileClock.REPLAY, timezone="UTC", calendar="24/7"
    )


@pytest.fixture
def live(
    store: Store, add: Callable[..., ModelVersion], choice: BarsChoice, tmp_path: Path
) -> Store:
    """A service that was begun on a file."""
    baseline = add("baseline", service=FILED.key)
    keep_chosen_file(store, FILED, choice, tmp_path)
    with store.write() as connection:
        begin_route(connection, FILED.key, "baseline", WHY)
        set_market_of(FILED, choice, WHY)(connection, baseline)
    return store


def asked(**fields: Any) -> BarsChoice:
    return BarsChoice(**fields)


def test_what_the_caller_leaves_out_is_what_the_service_has(
    live: Store, choice: BarsChoice
) -> None:
    for one in (asked(), asked(bars_file=choice.bars_file), asked(**dict(asked()))):
        assert choose_bars(live, FILED, one, clock=FileClock.WALL) == choice
    closes = choose_bars(live, FILED, asked(stamps="close"), clock=FileClock.WALL)
    assert closes == choice.model_copy(update={"stamps": "close"})


def test_another_file_is_read_as_the_caller_says_and_an_empty_one_is_the_venue(
    live: Store,
) -> None:
    other = choose_bars(live, FILED, asked(bars_file="/x/../new.csv"), clock=FileClock.END)
    assert other == asked(bars_file="/new.csv", file_clock=FileClock.END)
    assert choose_bars(live, FILED, asked(bars_file=""), clock=FileClock.END) == asked()


def test_a_service_of_an_exchange_keeps_its_bars_unless_a_clock_is_named(store: Store) -> None:
    service = replace(FILED, venue="binance")
    once = choose_bars(store, service, asked(bars_file="/new.csv"), clock=FileClock.WALL)
    assert note_market(service, once) is None
    for_good = choose_bars(
        store, service, asked(bars_file="/new.csv", file_clock="end"), clock=FileClock.WALL
    )
    noted = note_market(service, for_good)
    assert noted is not None
    assert noted["choice"] == {"bars_file": "/new.csv", "file_clock": "end"}


def test_the_market_follows_the_champion_and_goes_back_with_it(
    live: Store, add: Callable[..., ModelVersion], choice: BarsChoice, tmp_path: Path
) -> None:
    path = tmp_path / "longer.parquet"
    simulate_bars(400, seed=1).to_parquet(path)
    longer = choice.model_copy(update={"bars_file": str(path)})
    keep_chosen_file(live, FILED, longer, tmp_path)
    for number, model_id, one in ((2, "first", choice), (3, "second", longer)):
        add(model_id, number, service=FILED.key, notes={"market": note_market(FILED, one)})
    assert read_market(live, FILED).choice == choice
    for champion, expected in (("second", longer), ("first", choice), ("baseline", choice)):
        with live.write() as connection:
            before = get_route(live, FILED.key)
            assert before is not None
            after = replace(before, champion=champion)
            change_route(connection, before, after, "promote", WHY)
        assert read_market(live, FILED).choice == expected


def test_the_recognised_calendar_is_noted_for_a_file_only() -> None:
    new_york = load_calendar("XNYS")
    assert note_calendar(asked(bars_file="/a.csv"), new_york).calendar == "XNYS"
    assert note_calendar(asked(), new_york) == asked()


def test_a_book_sees_a_market_once_it_is_refreshed(
    live: Store, choice: BarsChoice, tmp_path: Path
) -> None:
    book = MarketBook(live)
    digest = book.bars_digest(FILED)
    assert book.of(FILED).choice == choice
    assert len(book.read_bars(FILED, 10)) == 300
    simulate_bars(301, seed=1).to_parquet(str(choice.bars_file))
    assert keep_chosen_file(live, FILED, choice, tmp_path)
    assert book.bars_digest(FILED) == digest
    book.refresh()
    assert book.bars_digest(FILED) != digest
    assert not book.of(replace(FILED, symbol="ETH/USD")).from_file


def test_a_choice_that_a_newer_release_noted_is_read(live: Store, choice: BarsChoice) -> None:
    assert BarsChoice.read({**dict(choice), "tomorrow": 1}) == choice


def test_the_file_of_a_service_of_an_earlier_release_is_adopted_once_it_is_here(
    store: Store, add: Callable[..., ModelVersion], choice: BarsChoice, tmp_path: Path
) -> None:
    path = Path(str(choice.bars_file))
    hidden = path.rename(path.with_name("hidden"))
    add("old", service=FILED.key, notes={"config": {"bars_file": str(path), "refits": 8}})
    with store.write() as connection:
        begin_route(connection, FILED.key, "old", Why(NOW - timedelta(days=1)))
    assert not adopt_noted_file(store, FILED, cache_root=tmp_path)
    hidden.rename(path)
    assert adopt_noted_file(store, FILED, cache_root=tmp_path)
    market = read_market(store, FILED)
    assert (market.clock, market.choice.bars_file) == (FileClock.WALL, str(path))
