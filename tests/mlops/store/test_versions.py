"""Versions are found by their words, change status with an audit row, and stay unique."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import pytest

from mlops.errors import StoreError, VersionNotFound
from mlops.store import (
    ModelVersion,
    Status,
    Store,
    Why,
    get_version,
    list_audit_entries,
    list_versions,
)
from mlops.store.versions import change_status, known_ids

from .conftest import NOW

Add = Callable[..., ModelVersion]


def test_a_version_comes_back_as_it_went_in(store: Store, add: Add) -> None:
    row = add(metrics={"mse": 0.1 + 0.2, "nan": None}, report={"passed": True}, notes={"n": [1]})
    assert get_version(store, row.model_id) == row


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({}, ["b", "a"]),
        ({"model_type": "lstm"}, ["b"]),
        ({"symbol": "BTC/USD"}, ["b", "a"]),
        ({"symbol": "ETH/USD"}, []),
        ({"status": "refused"}, ["b"]),
        ({"model_type": "lstm", "status": "deployed"}, []),
    ],
)
def test_versions_are_listed_by_their_words_newest_first(
    store: Store, add: Add, words: dict[str, str], found: list[str]
) -> None:
    add("a", 1)
    add("b", 2, model_type="lstm", status=Status.REFUSED, created_at=NOW + timedelta(hours=1))
    assert [version.model_id for version in list_versions(store, **words)] == found


def test_a_symbol_that_was_stored_in_small_letters_is_found(store: Store, add: Add) -> None:
    add("a", 1, symbol="btc/usd")
    assert [version.model_id for version in list_versions(store, symbol="BTC/USD")] == ["a"]


def test_notes_with_numbers_that_are_none_come_back(store: Store, add: Add) -> None:
    row = add(notes={"nan": math.nan, "inf": math.inf, "name": "币"})
    notes = dict(get_version(store, row.model_id).notes)
    assert math.isnan(notes.pop("nan"))
    assert notes == {"inf": math.inf, "name": "币"}


def test_an_unknown_status_is_answered_with_the_known_ones(store: Store) -> None:
    with pytest.raises(StoreError, match=r"'live' is not one of training, refused, challenger"):
        list_versions(store, status="live")


def test_an_unknown_id_is_answered_with_the_newest_ones(store: Store, add: Add) -> None:
    add("a", 1)
    with pytest.raises(VersionNotFound, match=r"no version 'b'.*newest are: a"):
        get_version(store, "b")


@pytest.mark.parametrize(("model_id", "number"), [("a", 2), ("b", 1)])
def test_neither_id_nor_mlflow_version_is_given_twice(
    store: Store, add: Add, model_id: str, number: int
) -> None:
    add("a", 1)
    with pytest.raises(StoreError, match=r"(?i)unique"):
        add(model_id, number)
    assert known_ids(store) == {"a"}


def test_a_change_of_status_says_who_and_why(store: Store, add: Add) -> None:
    add("a", 1)
    why = Why(NOW, actor="ann", reason="superseded")
    with store.write() as connection:
        changed = change_status(connection, "a", Status.RETIRED, why)
    assert changed.status is Status.RETIRED
    entry = list_audit_entries(store, subject="a")[-1]
    assert (entry.actor, entry.reason) == ("ann", "superseded")
    assert (entry.before, entry.after) == ({"status": "deployed"}, {"status": "retired"})
