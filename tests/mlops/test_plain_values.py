"""Notes of any kind become JSON values, or are refused by name."""

from __future__ import annotations

import json
import math
from collections import deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import RegistryError
from mlops.plain_values import MAX_CHARACTERS, plain_notes
from mlops.search.config import TrainingConfig

Pair = namedtuple("Pair", "first second")


class Colour(Enum):
    RED = "red"


@dataclass
class Fold:
    n: np.int64
    scores: tuple[float, ...]


LAST_DAY = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))
IN_BERLIN = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1)))
KEPT: list[tuple[Any, Any]] = [
    (np.int64(10000), 10000),
    (np.float32(0.5), 0.5),
    (np.longdouble(0.5), 0.5),
    (np.True_, True),
    (np.str_("x"), "x"),
    (np.arange(3), [0, 1, 2]),
    (np.array(2.5), 2.5),
    (np.array(["a", None], dtype=object), ["a", None]),
    (torch.tensor(0.5, requires_grad=True), 0.5),
    (torch.tensor(True), True),
    (torch.ones(2, 1), [[1.0], [1.0]]),
    (datetime(2024, 1, 1, 12), "2024-01-01T12:00:00"),
    (IN_BERLIN, "2023-12-31T23:00:00+00:00"),
    (
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        "9999-12-31T23:59:59.999999-05:00",
    ),
    (pd.Timestamp("2024-01-01", tz="Asia/Tokyo"), "2023-12-31T15:00:00+00:00"),
    (np.datetime64("2024-01-01"), "2024-01-01"),
    (np.array(["2024-01-01"], "datetime64[D]"), ["2024-01-01"]),
    (date(2024, 1, 1), "2024-01-01"),
    (time(12), "12:00:00"),
    (timedelta(hours=1), "P0DT1H0M0S"),
    (np.timedelta64(1, "h"), "P0DT1H0M0S"),
    (pd.NaT, None),
    (pd.NA, None),
    (np.datetime64("NaT"), None),
    (Decimal("0.93"), 0.93),
    (Path("a/b"), "a/b"),
    (UUID(int=5), str(UUID(int=5))),
    (Colour.RED, "red"),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset("ba"), ["a", "b"]),
    ((1, 2), [1, 2]),
    (Pair(1, 2), [1, 2]),
    (deque([1]), [1]),
    (range(2), [0, 1]),
    (pd.Index([1, 2]), [1, 2]),
    (Fold(np.int64(1), (0.5,)), {"n": 1, "scores": [0.5]}),
    ({np.int64(1): "a", Colour.RED: {"b": ()}}, {"1": "a", "red": {"b": []}}),
    (10**200, 10**200),
    (math.inf, math.inf),
    ("币安 \U0001f438", "币安 \U0001f438"),
]


def name_case(value: object) -> str:
    """A name that is the same in every process: no order of a set and no address."""
    return str(value)[:40] if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("value", "kept"), KEPT, ids=name_case)
def test_values_of_any_kind_are_kept_as_json(value: Any, kept: Any) -> None:
    notes = plain_notes({"a": {"b": [value]}})
    assert notes == {"a": {"b": [kept]}}
    assert type(notes["a"]["b"][0]) is type(kept)
    assert json.loads(json.dumps(notes)) == notes


def test_a_configuration_is_kept_by_its_fields() -> None:
    assert plain_notes({"config": TrainingConfig(trials=3)})["config"]["trials"] == 3


def test_nan_stays_nan() -> None:
    assert math.isnan(plain_notes({"a": np.float32("nan")})["a"])


def test_what_was_given_is_not_changed() -> None:
    given_notes: dict[str, Any] = {"a": (1, {"b": np.int64(2)})}
    plain_notes(given_notes)
    assert given_notes == {"a": (1, {"b": np.int64(2)})}


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append({"x": value})
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED: list[tuple[Any, str]] = [
    (b"x", r"metadata\['a'\]\['b'\] is a bytes, which cannot be kept; allowed are text, numbers"),
    (np.bytes_(b"x"), "is a numpy.bytes_"),
    (bytearray(b"x"), "is a bytearray"),
    (object(), "is a object"),
    (print, "is a builtin_function_or_method"),
    (int, "is a type"),
    (np, "is a module"),
    (np.float32, "is a type"),
    ((n for n in (1, 2)), "is a generator"),
    (3j, "is a complex"),
    (np.zeros(1, "i4,i4"), "is a numpy.ndarray"),
    (pd.DataFrame(), "is a pandas.DataFrame"),
    (pd.Series([1]), "is a pandas.Series"),
    (torch.ones(1, device="meta"), "is a torch.Tensor"),
    (in_itself(), r"\['b'\]\[0\]\['x'\] holds itself"),
    (nested(40), "nested deeper than 32 levels"),
    ({(1, 2): 3}, r"has the key \(1, 2\), which is not text"),
    ({None: 3}, "has the key None"),
    ({True: 3}, "has the key True"),
    ({1: 3, "1": 4}, "two keys that are written '1'"),
    ("a\0", r"has the character '\\x00' at place 1"),
    ("\ud800", r"has the character '\\ud800' at place 0"),
    ({"\0": 1}, r"a key of metadata\['a'\]\['b'\] has the character"),
    (10**400, "more than 1024 bits"),
    (Decimal("123456789.123456789123"), "more digits than a float holds"),
    (Decimal("1e400"), "more digits than a float holds"),
    (timedelta.max, r"datetime.timedelta\(.*\), which has no text; pass text"),
    (np.timedelta64(5, "Y"), "which has no text; pass text"),
    (np.zeros(10**6), "too many values; at most 1,000,000 characters"),
    ("x" * MAX_CHARACTERS, "characters of JSON; at most 1,000,000"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=name_case)
def test_what_cannot_be_kept_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        plain_notes({"a": {"b": value}})


def test_the_first_wrong_value_is_named_by_its_place() -> None:
    with pytest.raises(RegistryError, match=r"metadata\['a'\]\[1\]\['b'\] is a bytes"):
        plain_notes({"a": [1, {"b": b""}]})


@pytest.mark.parametrize("metadata", ["text", [("a", 1)], 5])
def test_metadata_are_a_mapping(metadata: object) -> None:
    with pytest.raises(RegistryError, match=r"metadata is a \w+; pass a dict"):
        plain_notes(metadata)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.dates(),
    st.datetimes(timezones=st.sampled_from([None, UTC])), st.timedeltas(),
    st.decimals(allow_nan=False),
    st.fractions(), st.complex_numbers(), st.uuids(),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner), st.dictionaries(SCALARS, inner), st.sets(st.integers())
    ),
    max_leaves=10,
)


@given(VALUES)
def test_any_value_is_kept_as_json_or_refused(value: object) -> None:
    try:
        notes = plain_notes({"a": value})
    except RegistryError:
        return
    assert repr(json.loads(json.dumps(notes, sort_keys=True))) == repr(
        json.loads(json.dumps(plain_notes(notes), sort_keys=True))
    )
