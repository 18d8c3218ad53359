"""A cursor comes back as the position it was made of, and a made-up one is refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from mlops.api.paging import read_cursor, read_name_cursor, write_cursor, write_name_cursor
from mlops.api.problems import Problem
from mlops.store.pages import Position


def encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_cursor_keeps_every_microsecond_and_letter() -> None:
    position = Position(datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), 'lstm_币_"1')
    assert read_cursor(write_cursor(position)) == position
    assert read_name_cursor(write_name_cursor("sample.btc-usd")) == "sample.btc-usd"


def test_the_first_page_has_no_cursor_and_the_last_gives_none() -> None:
    assert (read_cursor(None), read_name_cursor(None)) == (None, None)
    assert (write_cursor(None), write_name_cursor(None)) == (None, None)


@pytest.mark.parametrize(
    "cursor",
    [
        "A",
        "____",
        encode("{}"),
        encode("[1, 2]"),
        encode('["yesterday", "a"]'),
        encode('["2025-01-01T00:00:00", "a"]'),
        encode('["0001-01-01T00:00:00+23:00", "a"]'),
        encode('["a", "b", "c"]'),
    ],
)
def test_a_cursor_that_no_list_has_given_is_refused(cursor: str) -> None:
    for read in (read_cursor, read_name_cursor):
        with pytest.raises(Problem, match="leave it out") as told:
            read(cursor)
        assert told.value.kind.status == 422
