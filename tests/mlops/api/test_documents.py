"""Times, whole numbers and flags of requests, and times of answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from mlops.api.documents import Body, Document, Flag, Moment, Number, QueryFlag, Utc, Whole


class Asked(Body):
    at: Moment | None = None
    count: Whole = 0
    share: Number = 0.0
    flag: Flag = False
    word: QueryFlag = False


class Told(Document):
    at: Utc
    share: float


@pytest.mark.parametrize("text", ["2024-12-05T12:00:00Z", "2024-12-05t13:00:00.000+01:00"])
def test_a_time_is_read_with_its_offset(text: str) -> None:
    assert Asked.model_validate({"at": text}).at == datetime(2024, 12, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "values",
    [
        {"at": "2024-12-05T12:00:00"},
        {"at": "2024-12-05"},
        {"at": 1733400000},
        {"at": "1969-12-31T23:59:59Z"},
        {"at": "2200-01-01T00:00:00Z"},
        {"at": "2024-13-05T12:00:00Z"},
        {"count": "1"},
        {"count": True},
        {"count": 1.5},
        {"count": 2**53 + 2},
        {"share": "0.5"},
        {"share": True},
        {"share": float("inf")},
        {"flag": 1},
        {"flag": "true"},
        {"word": "yes"},
        {"more": 1},
    ],
)
def test_a_value_of_another_kind_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Asked.model_validate(values)


def test_a_whole_number_may_be_written_as_json_has_it() -> None:
    read = Asked.model_validate({"count": 3.0, "share": 1, "word": "true"})
    assert (read.count, read.share, read.word) == (3, 1.0, True)


def test_an_answer_has_z_and_null() -> None:
    told = Told(at=datetime(2024, 12, 5, 12, tzinfo=UTC), share=float("nan"))
    assert told.model_dump_json() == '{"at":"2024-12-05T12:00:00Z","share":null}'
