"""Forecasts reach the store once, whatever becomes of the store or the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops.errors import StoreError
from mlops.serving.forecast_spool import ForecastSpool
from mlops.store import Store, list_forecasts, open_store
from mlops.store.forecasts import ForecastRow, Role
from tests.forked import in_child

AT = datetime(2025, 1, 1, tzinfo=UTC)
ROW = ForecastRow("svc", AT, "m", Role.RECORD, 0.25, 0.1, None, AT, 3, "r1", "d" * 64)
MIB = 1024**2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[ForecastSpool]:
    made = ForecastSpool(tmp_path / "spool", "me", max_bytes=MIB)
    yield made
    made.close()


def bars(n: int) -> list[ForecastRow]:
    return [replace(ROW, bar=AT + timedelta(hours=hour)) for hour in range(n)]


def test_a_row_is_stored_as_it_was_made(spool: ForecastSpool, store: Store) -> None:
    assert spool.put([ROW])
    assert spool.drain(store) == 1
    assert list_forecasts(store, "svc") == (ROW,)
    assert (spool.waiting(), spool.waiting_bytes()) == (False, 0)


def test_forecasts_are_kept_while_the_store_takes_its_time(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_slowly(*_: object) -> int:
        assert spool.put(bars(3)[1:])
        assert spool.drain(store) == 0, "two write the same rows"
        return 0

    spool.put([ROW])
    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool.record_forecasts", record_slowly)
        assert spool.drain(store) == 1
    assert spool.drain(store) == 2
    assert [row.bar for row in list_forecasts(store, "svc")] == [row.bar for row in bars(3)[1:]]
    assert not spool.waiting()


def test_a_row_that_is_written_twice_is_stored_once(spool: ForecastSpool, store: Store) -> None:
    for value in (0.25, 0.75):
        spool.put([replace(ROW, value=value)])
        spool.drain(store)
    assert [row.value for row in list_forecasts(store, "svc")] == [0.25]


def test_a_bar_has_one_forecast_of_record_and_any_shadow(
    spool: ForecastSpool, store: Store
) -> None:
    other = replace(ROW, model_id="other")
    spool.put([ROW, other, replace(other, role=Role.SHADOW)])
    spool.drain(store)
    stored = {(row.model_id, row.role) for row in list_forecasts(store, "svc", role=None)}
    assert stored == {("m", Role.RECORD), ("other", Role.SHADOW)}


def test_rows_wait_while_the_store_is_away(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> int:
        raise StoreError("away")

    spool.put(bars(3))
    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool.record_forecasts", away)
        with pytest.raises(StoreError):
            spool.drain(store)
    spool.put(bars(5)[3:])
    assert spool.drain(store) == 5
    assert len(list_forecasts(store, "svc")) == 5


def test_a_dead_process_is_adopted_and_a_living_one_left_alone(
    tmp_path: Path, spool: ForecastSpool, store: Store
) -> None:
    def die() -> None:
        other = ForecastSpool(tmp_path / "spool", "other", max_bytes=MIB)
        other.put(bars(2))
        os._exit(9)

    living = ForecastSpool(tmp_path / "spool", "living", max_bytes=MIB)
    living.put([replace(ROW, bar=AT + timedelta(days=9))])
    in_child(die)
    spool.drain(store)
    assert len(list_forecasts(store, "svc")) == 2
    living.drain(store)
    living.close()
    assert len(list_forecasts(store, "svc")) == 3


def test_a_line_that_a_kill_left_half_costs_only_itself(
    tmp_path: Path, spool: ForecastSpool, store: Store
) -> None:
    spool.put([ROW])
    with (tmp_path / "spool" / "me.jsonl").open("ab") as file:
        file.write(b'{"service": "svc", "bar": "2025-0')
    spool.drain(store)
    assert (len(list_forecasts(store, "svc")), spool.torn) == (1, 1)


def test_a_full_spool_refuses_and_says_so(tmp_path: Path) -> None:
    small = ForecastSpool(tmp_path / "small", "me", max_bytes=400)
    assert [small.put([ROW]) for _ in range(3)] == [True, False, False]
    assert small.refused == 2
    small.close()


def test_a_full_disk_leaves_no_half_line(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool.os.fsync", full)
        assert not spool.put([ROW])
    assert spool.put(bars(2))
    spool.drain(store)
    assert (len(list_forecasts(store, "svc")), spool.torn, spool.refused) == (2, 0, 1)
