"""Both databases take the same values, and a refusal names column, value and limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from mlops.errors import StoreError, VersionNotFound
from mlops.store import Store, Why, get_version, list_audit_entries
from mlops.store.alerts import Condition, Trouble, raise_alert
from mlops.store.audit import record
from mlops.store.column_types import CheckedFloat, CheckedText
from mlops.store.leases import acquire_lease
from mlops.store.schema import forecast, metadata

from .conftest import NOW, SERVICE

TEXTS = [column for table in metadata.sorted_tables for column in table.columns
         if isinstance(column.type, CheckedText)]  # fmt: skip
NUMBERS = [column for table in metadata.sorted_tables for column in table.columns
           if isinstance(column.type, CheckedFloat)]  # fmt: skip
ODD = ("a\0b", "é\0b", "é\ud800", 17)
NAN = float("nan")


def write(store: Store, column: sa.Column[Any], value: object) -> None:
    """Write the value into every row of the column."""
    with store.write() as connection:
        connection.execute(column.table.update().values({column.name: value}))


def test_every_column_for_text_and_numbers_is_checked() -> None:
    for table in metadata.sorted_tables:
        for column in table.columns:
            assert type(column.type) not in (sa.String, sa.Text, sa.Float), column
    assert {"actor of audit", "id of replica", "name of lease"} <= {c.type.field for c in TEXTS}


def test_no_column_takes_odd_characters_or_what_is_no_text(store: Store) -> None:
    for column in TEXTS:
        for value in ODD:
            with pytest.raises(StoreError, match=f"^{column.name} of {column.table.name} "):
                write(store, column, value)


def test_no_column_takes_a_text_above_its_length(store: Store) -> None:
    limited = [column for column in TEXTS if column.type.plain.length is not None]
    assert len(limited) > 50
    for column in limited:
        most = column.type.plain.length
        refusal = f"^{column.name} of {column.table.name} has {most + 1} characters, at most {most}"
        with pytest.raises(StoreError, match=refusal):
            write(store, column, "x" * (most + 1))


def test_no_column_takes_nan(store: Store) -> None:
    for column in NUMBERS:
        with pytest.raises(StoreError, match=f"^{column.name} of {column.table.name} is NaN"):
            write(store, column, NAN)


def test_a_text_of_the_whole_length_and_of_any_script_is_kept(store: Store) -> None:
    actor = "é漢😀" + "x" * 197
    with store.write() as connection:
        record(connection, Why(NOW, actor, "line\n\ttab"), action="a", service=SERVICE, subject="x")
    [entry] = list_audit_entries(store)
    assert (entry.actor, entry.reason) == (actor, "line\n\ttab")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"actor": "a" * 201}, "actor of audit has 201 characters, at most 200 are allowed"),
        ({"reason": "because\0"}, "reason of audit has a character at place 7 that a database"),
    ],
)
def test_an_author_or_a_reason_that_does_not_fit_is_named(
    store: Store, words: dict[str, str], message: str
) -> None:
    with pytest.raises(StoreError, match=message), store.write() as connection:
        record(connection, Why(NOW, **words), action="a", service=SERVICE, subject="x")
    assert list_audit_entries(store) == ()


def test_a_subject_of_an_alert_and_a_name_of_a_lease_that_do_not_fit_are_named(
    store: Store,
) -> None:
    trouble = Trouble(Condition.DATA_DRIFT, SERVICE, "s" * 201, "Drift", "moved")
    with pytest.raises(StoreError, match="subject of alert has 201"), store.write() as connection:
        raise_alert(connection, trouble, at=NOW)
    with pytest.raises(StoreError, match="name of lease has 101 characters, at most 100"):
        acquire_lease(store, "l" * 101, "host", seconds=5)


def test_a_search_for_a_text_of_any_length_finds_nothing(store: Store) -> None:
    with pytest.raises(VersionNotFound):
        get_version(store, "x" * 500)
    assert list_audit_entries(store, subject="x" * 500) == ()
    with pytest.raises(StoreError, match="model_id of version has a character at place 1"):
        get_version(store, "x\0")


def test_a_forecast_that_is_nan_is_refused_and_one_without_interval_is_kept(store: Store) -> None:
    row = {
        "service": SERVICE,
        "bar": NOW,
        "model_id": "linear_BTC_1",
        "role": "record",
        "value": 1.0,
        "low": None,
        "high": None,
        "made_at": NOW + timedelta(hours=1),
        "generation": 1,
        "replica_id": "host:8005",
        "bars_digest": "d",
    }
    with store.write() as connection:
        connection.execute(forecast.insert(), [row])
    with pytest.raises(StoreError, match="low of forecast is NaN"), store.write() as connection:
        connection.execute(forecast.insert(), [row | {"role": "other", "low": NAN}])
