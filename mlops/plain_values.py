"""Values of any kind as JSON values, or refused by name: what a caller may note with a version."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
from pydantic import BaseModel

from mlops.errors import RegistryError
from mlops.plain_numbers import plain_number

MAX_CHARACTERS = 1_000_000
"""Most characters of the JSON text of all notes: every listing of versions reads them."""

MAX_DEPTH = 32
MAX_BITS = 1024
"""Most bits of a whole number."""

_ALLOWED = (
    "allowed are text, numbers, True, False, None, times, paths, and lists and mappings of them"
)

_TOO_LARGE = (
    f"at most {MAX_CHARACTERS:,} characters of JSON are allowed; keep large tables in a file and "
    "note its path"
)


def plain_notes(given: object, name: str = "metadata") -> dict[str, Any]:
    """Turn a mapping into JSON values that both databases and every reader keep alike.

    Numbers and arrays of numpy and tensors become numbers and lists, aware times ISO 8601 in UTC,
    times without a zone ISO 8601 as they are, spans of time ISO 8601 durations, sets sorted lists,
    enum members their values, paths text, NaT and NA None. NaN and infinity stay as they are.

    Args:
        name: What messages call the mapping.

    Raises:
        RegistryError: naming the first value that cannot be kept, and what is allowed.
    """
    if not isinstance(given, Mapping):
        raise RegistryError(f"{name} is a {type(given).__name__}; pass a dict")
    plain: dict[str, Any] = _PlainValues(name).convert_mapping(given, name)
    size = len(json.dumps(plain))
    if size > MAX_CHARACTERS:
        raise RegistryError(f"{name} is {size:,} characters of JSON; {_TOO_LARGE}")
    return plain


class _PlainValues:
    """Converts nested values; notices one that holds itself, and too many."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._open: list[int] = []
        self._room = MAX_CHARACTERS // 2  # an item takes two characters or more

    def convert(self, value: object, place: str) -> Any:
        if isinstance(value, Enum):
            return self.convert(value.value, place)
        self._take_room(1)
        if _is_missing(value):
            return None
        if isinstance(value, bool | np.bool_):
            return bool(value)
        try:
            text = _write_text(value)
        except ValueError as error:
            # A span of more than 292,000 years, or of months, which differ in length.
            raise RegistryError(f"{place} is {value!r}, which has no text; pass text") from error
        if text is not None:
            return _check_text(text, place)
        number = plain_number(value)
        if number is not None:
            return _check_number(number, value, place)
        return self._convert_whole(value, place)

    def convert_mapping(self, value: Mapping[Any, Any], place: str) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        with _Entered(self._open, value, place):
            for given, item in value.items():
                key = self._convert_key(given, place)
                if key in plain:
                    raise RegistryError(f"{place} has two keys that are written {key!r}; keep one")
                plain[key] = self.convert(item, f"{place}[{key!r}]")
        return plain

    def _convert_whole(self, value: object, place: str) -> Any:
        """A value that holds others."""
        if isinstance(value, Mapping):
            return self.convert_mapping(value, place)
        if isinstance(value, BaseModel):
            return self.convert_mapping(value.model_dump(), place)
        if is_dataclass(value) and not isinstance(value, type):
            parts = {field.name: getattr(value, field.name) for field in fields(value)}
            with _Entered(self._open, value, place):
                return self.convert_mapping(parts, place)
        self._take_room(_count_items(value))
        try:
            listed = _list_items(value)
        except (RuntimeError, TypeError, ValueError) as error:
            what = _name_type(value)
            raise RegistryError(f"{place} is a {what}, which cannot be kept; {_ALLOWED}") from error
        if not isinstance(listed, list):
            return self.convert(listed, place)
        with _Entered(self._open, value, place):
            plain = [self.convert(item, f"{place}[{n}]") for n, item in enumerate(listed)]
        return sorted(plain, key=json.dumps) if isinstance(value, Set) else plain

    def _convert_key(self, given: object, place: str) -> str:
        key = self.convert(given, f"a key of {place}")
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise RegistryError(f"{place} has the key {given!r}, which is not text; pass text")
        return str(key)

    def _take_room(self, items: int) -> None:
        if items > self._room:
            raise RegistryError(f"{self.name} holds too many values; {_TOO_LARGE}")
        self._room -= items


class _Entered:
    """A value whose items are being converted."""

    def __init__(self, entered: list[int], value: object, place: str) -> None:
        if id(value) in entered:
            raise RegistryError(f"{place} holds itself; leave it out")
        if len(entered) >= MAX_DEPTH:
            raise RegistryError(f"{place} is nested deeper than {MAX_DEPTH} levels; flatten it")
        self.entered = entered
        self.value = value

    def __enter__(self) -> None:
        self.entered.append(id(self.value))

    def __exit__(self, *_: object) -> None:
        self.entered.pop()


def _list_items(value: object) -> Any:
    """The items of a sequence, a set or an array; what an array of no dimension holds.

    Raises:
        TypeError: when the value is of another kind; bytes are, for JSON has no text for them.
        RuntimeError, ValueError: when a tensor has no values here.
    """
    if isinstance(value, bytes | bytearray | memoryview | pd.Series):
        raise TypeError("not a list")
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in ("M", "m") and isinstance(value, np.ndarray):
        # `tolist` turns nanoseconds into bare integers.
        return list(value) if value.ndim else value[()]
    if hasattr(value, "tolist") and hasattr(value, "shape") and kind not in ("V", "S", "c"):
        listed = value.tolist()
        if type(listed) is not type(value):
            return listed
    if not isinstance(value, Sequence | Set):
        raise TypeError("not a list")
    return list(value)


def _count_items(value: object) -> int:
    """Items of an array; 0 for anything else."""
    shape = getattr(value, "shape", None)
    return math.prod(shape) if isinstance(shape, tuple) else 0


def _is_missing(value: object) -> bool:
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return value is None or value is pd.NaT or value is pd.NA


def _write_text(value: object) -> str | None:
    """Text, paths, ids, times and spans of time as text; None for any other value."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, PurePath | UUID | np.datetime64):
        return str(value)
    if isinstance(value, timedelta | np.timedelta64):
        return str(pd.Timedelta(value).isoformat())
    if isinstance(value, datetime):
        return _write_time(value)
    return value.isoformat() if isinstance(value, date | time) else None


def _write_time(value: datetime) -> str:
    try:
        return value.isoformat() if value.tzinfo is None else value.astimezone(UTC).isoformat()
    except OverflowError:
        # The first and the last day that a datetime has are in no other zone.
        return value.isoformat()


def _check_text(text: str, place: str) -> str:
    wrong = text.find("\0")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = error.start
    if wrong >= 0:
        raise RegistryError(
            f"{place} has the character {text[wrong]!r} at place {wrong}, which a database cannot "
            "keep; leave it out"
        )
    return text


def _check_number(number: int | float, given: object, place: str) -> int | float:
    if isinstance(number, int) and number.bit_length() > MAX_BITS:
        raise RegistryError(f"{place} is a number of more than {MAX_BITS} bits; pass it as text")
    if isinstance(given, Decimal) and given.is_finite() and Decimal(repr(number)) != given:
        raise RegistryError(
            f"{place} is {given}, which has more digits than a float holds; pass it as text"
        )
    return number


def _name_type(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
