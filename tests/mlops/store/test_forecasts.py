"""The first forecast of record of a bar stands, whoever writes it again."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlops.errors import RowRefused
from mlops.store import ForecastRow, Store, list_forecasts, open_store
from mlops.store.forecasts import Role, record_forecasts

from .conftest import NOW, SERVICE

HOUR = timedelta(hours=1)
ROW = ForecastRow(
    service=SERVICE,
    bar=NOW,
    model_id="champion",
    role=Role.RECORD,
    value=0.25,
    low=0.2,
    high=None,
    made_at=NOW + HOUR,
    generation=3,
    replica_id="r0",
    bars_digest="b" * 64,
)


def test_what_is_forecast_is_what_is_read(store: Store) -> None:
    assert record_forecasts(store, [ROW]) == 1
    assert list_forecasts(store, SERVICE) == (ROW,)


def test_writing_it_again_changes_nothing(store: Store) -> None:
    record_forecasts(store, [ROW])
    again = replace(ROW, value=9.9, replica_id="r1")
    assert record_forecasts(store, [again]) == 0
    assert list_forecasts(store, SERVICE) == (ROW,)


def test_another_version_does_not_speak_for_the_service_twice(store: Store) -> None:
    """A promotion in the same hour: the forecast that was given stays the one of record."""
    record_forecasts(store, [ROW])
    second = replace(ROW, model_id="challenger")
    assert record_forecasts(store, [second]) == 0
    assert list_forecasts(store, SERVICE) == (ROW,)
    assert list_forecasts(store, SERVICE, role=Role.SHADOW) == (replace(second, role=Role.SHADOW),)


def test_a_challenger_promoted_meanwhile_goes_on_record_with_its_own_row(
    store: Store,
) -> None:
    """It forecast the bar beside a champion that was not ready, and was promoted before it was."""
    beside = replace(ROW, role=Role.SHADOW, value=0.24)
    record_forecasts(store, [beside])
    assert record_forecasts(store, [ROW]) == 1
    assert list_forecasts(store, SERVICE, role=None) == (ROW,)
    assert record_forecasts(store, [replace(ROW, model_id="another"), beside]) == 0
    assert list_forecasts(store, SERVICE) == (ROW,)


def test_a_row_beside_the_record_stays_there_where_the_bar_has_a_record(store: Store) -> None:
    beside = replace(ROW, model_id="challenger", role=Role.SHADOW)
    record_forecasts(store, [ROW, beside])
    assert record_forecasts(store, [replace(beside, role=Role.RECORD, value=9.9)]) == 0
    assert list_forecasts(store, SERVICE) == (ROW,)
    assert list_forecasts(store, SERVICE, role=Role.SHADOW) == (beside,)


def test_a_shadow_forecast_stands_beside_it_once(store: Store) -> None:
    shadow = replace(ROW, model_id="challenger", role=Role.SHADOW)
    assert record_forecasts(store, [ROW, shadow, shadow]) == 2
    assert list_forecasts(store, SERVICE) == (ROW,)
    assert list_forecasts(store, SERVICE, role=Role.SHADOW) == (shadow,)
    assert set(list_forecasts(store, SERVICE, role=None)) == {ROW, shadow}


def test_services_and_bars_are_apart(store: Store) -> None:
    rows = [ROW, replace(ROW, service="other"), replace(ROW, bar=NOW + HOUR)]
    assert record_forecasts(store, rows) == 3
    assert list_forecasts(store, SERVICE) == (rows[0], rows[2])


def test_a_time_span_begins_with_its_first_bar_and_ends_before_its_last(store: Store) -> None:
    rows = [replace(ROW, bar=NOW + n * HOUR) for n in range(4)]
    record_forecasts(store, list(reversed(rows)))
    assert list_forecasts(store, SERVICE, since=NOW + HOUR, until=NOW + 3 * HOUR) == (
        rows[1],
        rows[2],
    )
    assert list_forecasts(store, SERVICE) == tuple(rows)


def test_nothing_to_write_is_no_error(store: Store) -> None:
    assert record_forecasts(store, []) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"bar": NOW.replace(tzinfo=None)}, "no zone"), ({"value": None}, "breaks its rules")],
)
def test_a_row_that_breaks_the_rules_is_refused_for_good(
    store: Store, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(RowRefused, match=message):
        record_forecasts(store, [replace(ROW, **wrong)])


def test_of_two_replicas_that_write_at_once_one_is_first(url: str, store: Store) -> None:
    written: list[int] = []
    ready = threading.Barrier(2)

    def write(name: str) -> None:
        rows = [replace(ROW, bar=NOW + n * HOUR, replica_id=name) for n in range(20)]
        with closing(open_store(url)) as mine:
            ready.wait(timeout=30)
            written.append(record_forecasts(mine, rows))

    threads = [threading.Thread(target=write, args=(f"r{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(written) == 20
    assert len(list_forecasts(store, SERVICE)) == 20
