"""Outcomes are written once, revised by count, and read beside their forecasts."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from mlops.errors import StoreError
from mlops.store import ForecastRow, Store
from mlops.store import outcome_writes as room
from mlops.store.forecasts import Role, record_forecasts
from mlops.store.outcome_writes import (
    OutcomeBatch,
    ServiceOutcomeChanges,
    WrittenCounts,
    write_outcomes,
)
from mlops.store.outcomes import (
    OutcomeCounts,
    count_outcomes,
    read_arms,
    read_matched,
    read_recorded,
)

from .conftest import NOW, SERVICE

HOUR = timedelta(hours=1)
LATER = NOW + 1000 * HOUR
START = np.datetime64(NOW.replace(tzinfo=None), "us")


def bars(*numbers: int) -> np.ndarray:
    return START + np.array(numbers, dtype=int) * np.timedelta64(1, "h")


def labelled(*numbers: int, value: float = 1.0, **columns: float) -> OutcomeBatch:
    """Outcomes of those hours: the value is the hour times ``value`` plus a half."""
    hours = np.array(numbers, dtype=np.float64)
    found = {
        "bar": bars(*numbers),
        "known_at": bars(*numbers) + np.timedelta64(25, "h"),
        "value": value * hours + 0.5,
        "persistence": hours,
        "baseline": hours + 0.25,
        "next_return": hours / 100,
    }
    return OutcomeBatch(**found | {name: np.full(len(hours), x) for name, x in columns.items()})


def changes(service: str = SERVICE, **kinds: object) -> ServiceOutcomeChanges:
    empty = {"new": labelled(), "arrived": labelled(), "revised": labelled(), "missing": bars()}
    revised = kinds.get("revised", labelled())
    kinds.setdefault("revisions", np.zeros(len(revised), dtype=np.int64))  # type: ignore[arg-type]
    return ServiceOutcomeChanges(service=service, **empty | kinds)  # type: ignore[arg-type]


def write(store: Store, at: datetime = LATER, **kinds: object) -> WrittenCounts:
    (done,) = write_outcomes(store, [changes(**kinds)], at=at)
    return done


def forecast(
    store: Store,
    *numbers: int,
    model_id: str = "champion",
    role: Role = Role.RECORD,
    service: str = SERVICE,
) -> None:
    row = ForecastRow(
        service=service,
        bar=NOW,
        model_id=model_id,
        role=role,
        value=0.0,
        low=None,
        high=None,
        made_at=NOW,
        generation=1,
        replica_id="r0",
        bars_digest="b" * 64,
    )
    rows = [replace(row, bar=NOW + n * HOUR, value=n / 7) for n in numbers]
    assert record_forecasts(store, rows) == len(rows)


def test_what_is_written_is_what_is_read_beside_its_forecast(store: Store) -> None:
    forecast(store, 0, 1, 2)
    assert write(store, new=labelled(0, 2)) == WrittenCounts(new=2)
    found = read_matched(store, SERVICE)
    wanted = labelled(0, 2)
    for column in fields(OutcomeBatch):
        assert np.array_equal(getattr(found, column.name), getattr(wanted, column.name))
    assert found.forecast.tolist() == [0.0, 2 / 7]
    assert found.first_value.tolist() == found.value.tolist()
    assert found.revisions.tolist() == [0, 0]


def test_an_outcome_is_written_once(store: Store) -> None:
    forecast(store, 0, 1)
    write(store, new=labelled(0))
    assert write(store, new=labelled(0, 1, value=9.0)) == WrittenCounts(new=1)
    assert read_matched(store, SERVICE).value.tolist() == [0.5, 9.5]


def test_a_number_keeps_every_bit(store: Store) -> None:
    forecast(store, 3)
    exact = 0.1 + 0.2
    write(store, new=labelled(3, value=0.0, next_return=exact, baseline=1 / 3))
    found = read_matched(store, SERVICE)
    assert (found.next_return[0], found.baseline[0]) == (exact, 1 / 3)


def test_what_is_no_number_comes_back_as_none(store: Store) -> None:
    forecast(store, 0)
    write(store, new=labelled(0, baseline=np.nan, next_return=np.nan))
    found = read_matched(store, SERVICE)
    assert np.isnan([found.baseline[0], found.next_return[0]]).all()


def test_a_revision_replaces_the_value_and_keeps_the_first(store: Store) -> None:
    forecast(store, 1)
    write(store, new=labelled(1))
    changed = labelled(1, value=3.0, persistence=77.0, baseline=77.0, next_return=0.7)
    assert write(store, revised=changed) == WrittenCounts(revised=1)
    found = read_matched(store, SERVICE)
    assert (found.value[0], found.first_value[0], found.revisions[0]) == (3.5, 1.5, 1)
    assert (found.persistence[0], found.baseline[0]) == (1.0, 1.25)
    assert found.next_return[0] == 0.7


def test_a_revision_of_what_was_revised_meanwhile_is_not_counted(store: Store) -> None:
    forecast(store, 1)
    write(store, new=labelled(1))
    write(store, revised=labelled(1, value=3.0))
    assert write(store, revised=labelled(1, value=4.0)) == WrittenCounts()
    second = labelled(1, value=4.0)
    assert write(store, revised=second, revisions=np.array([1])) == WrittenCounts(revised=1)
    found = read_matched(store, SERVICE)
    assert (found.value[0], found.first_value[0], found.revisions[0]) == (4.5, 1.5, 2)


def test_what_is_missing_is_not_scored_until_it_arrives(store: Store) -> None:
    forecast(store, 0, 1)
    assert write(store, missing=bars(0, 1)) == WrittenCounts(missing=2)
    assert write(store, missing=bars(0, 1)) == WrittenCounts()
    assert len(read_matched(store, SERVICE)) == 0
    assert write(store, new=labelled(0)) == WrittenCounts()
    assert write(store, arrived=labelled(0)) == WrittenCounts(arrived=1)
    assert write(store, arrived=labelled(0, value=9.0)) == WrittenCounts()
    assert read_matched(store, SERVICE).value.tolist() == [0.5]
    counts = count_outcomes(store, SERVICE)
    assert counts == OutcomeCounts(forecasts=2, known=1, missing=1, arrived=1)


def test_a_known_outcome_is_never_marked_missing(store: Store) -> None:
    forecast(store, 0)
    write(store, new=labelled(0))
    assert write(store, missing=bars(0)) == WrittenCounts()
    assert count_outcomes(store, SERVICE) == OutcomeCounts(forecasts=1, known=1)


def test_a_bar_stands_once_however_many_versions_forecast_it(store: Store) -> None:
    forecast(store, 2, 0)
    forecast(store, 0, 1, model_id="challenger", role=Role.SHADOW)
    write(store, new=labelled(0), missing=bars(1))
    standing = read_recorded(store, SERVICE, since=NOW, until=LATER)
    assert np.array_equal(standing.bar, bars(0, 1, 2))
    assert standing.recorded.tolist() == [True, True, False]
    assert np.array_equal(standing.value, [0.5, np.nan, np.nan], equal_nan=True)


def test_a_stretch_begins_with_its_first_bar_and_ends_before_its_last(store: Store) -> None:
    forecast(store, 0, 1, 2, 3)
    write(store, new=labelled(0, 1, 2, 3))
    span = {"since": NOW + HOUR, "until": NOW + 3 * HOUR}
    assert np.array_equal(read_recorded(store, SERVICE, **span).bar, bars(1, 2))
    assert np.array_equal(read_matched(store, SERVICE, **span).bar, bars(1, 2))
    assert count_outcomes(store, SERVICE, **span).forecasts == 2


def test_versions_roles_and_services_are_apart(store: Store) -> None:
    forecast(store, 0, 1)
    forecast(store, 0, 1, model_id="challenger", role=Role.SHADOW)
    forecast(store, 0, service="other")
    write(store, new=labelled(0, 1))
    both = read_matched(store, SERVICE)
    assert both.model_id.tolist() == 2 * ["challenger", "champion"]
    assert both.value.tolist() == [0.5, 0.5, 1.5, 1.5]
    shadow = read_matched(store, SERVICE, role=Role.SHADOW)
    assert set(shadow.model_id) == {"challenger"}
    assert set(read_matched(store, SERVICE, model_id="champion").role) == {Role.RECORD}
    assert len(read_matched(store, "other")) == 0
    assert count_outcomes(store, "other") == OutcomeCounts(forecasts=1, waiting=1)


def test_services_are_counted_apart_in_one_write(store: Store) -> None:
    forecast(store, 0, 1)
    forecast(store, 0, service="other")
    found = write_outcomes(
        store,
        [changes(new=labelled(0, 1)), changes(service="other", missing=bars(0)), changes("third")],
        at=LATER,
    )
    assert found == [WrittenCounts(new=2), WrittenCounts(missing=1), WrittenCounts()]


def test_many_rows_are_written_in_several_transactions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ROWS_AT_ONCE", 3)
    forecast(store, *range(8))
    assert write(store, new=labelled(*range(7)), missing=bars(7)) == WrittenCounts(new=7, missing=1)
    assert read_matched(store, SERVICE).value.tolist() == [n + 0.5 for n in range(7)]


def test_nothing_is_read_of_a_service_without_forecasts(store: Store) -> None:
    assert len(read_recorded(store, SERVICE, since=NOW, until=LATER)) == 0
    assert len(read_matched(store, SERVICE)) == 0
    assert count_outcomes(store, SERVICE) == OutcomeCounts()


def test_rows_are_taken_by_mask(store: Store) -> None:
    forecast(store, 0, 1, 2)
    write(store, new=labelled(0, 1, 2))
    found = read_matched(store, SERVICE)
    assert np.array_equal(found.take(found.value > 1).bar, bars(1, 2))


def test_a_moment_without_a_zone_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no zone"):
        write(store, at=LATER.replace(tzinfo=None), new=labelled(0))


def test_two_arms_are_read_beside_the_outcomes_of_all_bars(store: Store) -> None:
    forecast(store, 1, 2, 4, model_id="a")
    forecast(store, 2, 3, model_id="b", role=Role.SHADOW)
    forecast(store, 1, 3, model_id="c", role=Role.SHADOW)
    write(store, new=labelled(0, 1, 2, 5), missing=bars(3))
    until = NOW + 5 * HOUR
    arms = read_arms(store, SERVICE, champion_id="a", challenger_id="b", since=NOW, until=until)
    assert list(arms.bar) == list(bars(0, 1, 2, 3, 4))
    nan = np.nan
    assert arms.champion == pytest.approx([nan, 1 / 7, 2 / 7, nan, 4 / 7], nan_ok=True)
    assert arms.challenger == pytest.approx([nan, nan, 2 / 7, 3 / 7, nan], nan_ok=True)
    assert arms.value == pytest.approx([0.5, 1.5, 2.5, nan, nan], nan_ok=True)
    assert arms.persistence == pytest.approx([0.0, 1.0, 2.0, nan, nan], nan_ok=True)
    assert len(read_arms(store, SERVICE, champion_id="a", challenger_id="b")) == 6
    assert len(read_arms(store, "another", champion_id="a", challenger_id="b")) == 0
