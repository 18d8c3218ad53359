"""What requests and answers are made of: strict input, answers with nulls, shared field types.

A body holds no unknown field, no NaN, no control character and no half of a surrogate pair, and a
number is never written as text. An answer has RFC 3339 times in UTC with ``Z``, and null for what
is not known.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

from fastapi import Path, Query
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    WithJsonSchema,
)

from mlops.json_values import drop_flags

MOST_NAME, MOST_REASON = 200, 2_000
"""Characters of a name, and of a reason."""

MOST_WHOLE = 2**53
"""The largest whole number that every reader of JSON keeps exact."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~=+-]{0,199}$"
TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
KEY_PATTERN = r"^[!-~]{1,128}$"
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class Body(BaseModel):
    """Base of what a request sends."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=()
    )


class Document(BaseModel):
    """Base of what an answer holds; it is built from the attributes of a library's object too."""

    model_config = ConfigDict(
        extra="forbid", from_attributes=True, frozen=True, protected_namespaces=()
    )


def read_moment(given: object) -> datetime:
    """A time of a request in UTC.

    Raises:
        ValueError: when it is not RFC 3339 with an offset, or not in 1970 to 2199.
    """
    if isinstance(given, datetime):
        moment = given
    elif isinstance(given, str) and _RFC3339.fullmatch(given):
        moment = datetime.fromisoformat(given.upper())
    else:
        raise ValueError("write the time as RFC 3339 with an offset, such as 2024-12-05T12:00:00Z")
    if moment.tzinfo is None or not EARLIEST <= moment <= LATEST:
        raise ValueError("the time must have an offset, and lie in the years 1970 to 2199")
    return moment.astimezone(UTC)


def write_moment(moment: datetime) -> str:
    """A time as RFC 3339 in UTC, with ``Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_whole(given: object) -> object:
    """1.0 is a whole number in JSON; true and "1" are none."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError("it must be a whole number")
    return int(given) if given == given // 1 else given


def _read_flag(given: object) -> object:
    """A flag of a query is the word of JSON."""
    flags = {"true": True, "false": False}
    if isinstance(given, bool):
        return given
    if not isinstance(given, str) or given not in flags:
        raise ValueError("it must be true or false")
    return flags[given]


Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=MOST_NAME, pattern=TEXT_PATTERN)]
"""A name that a caller gives or asks for."""

Reason: TypeAlias = Annotated[str, Field(max_length=MOST_REASON, pattern=TEXT_PATTERN)]
"""A sentence of a caller, kept with a change; it may be empty."""

Id: TypeAlias = Annotated[str, Field(pattern=ID_PATTERN)]
"""The id of a version, rollout, test or operation, or the key of a service."""

Flag: TypeAlias = Annotated[bool, Strict()]
Number: TypeAlias = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Whole: TypeAlias = Annotated[
    int, BeforeValidator(_read_whole), Field(ge=-MOST_WHOLE, le=MOST_WHOLE)
]
Moment: TypeAlias = Annotated[
    datetime,
    BeforeValidator(read_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time that a request sends."""

Utc: TypeAlias = Annotated[
    datetime,
    AfterValidator(lambda moment: moment.astimezone(UTC)),
    PlainSerializer(write_moment, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time that an answer tells."""

Json: TypeAlias = Annotated[dict[str, Any], AfterValidator(drop_flags)]
"""JSON that a table of the store keeps; a number that JSON lacks is null here."""

PathId: TypeAlias = Annotated[str, Path(pattern=ID_PATTERN)]
QueryId: TypeAlias = Annotated[str, Query(pattern=ID_PATTERN)]
QueryName: TypeAlias = Annotated[
    str, Query(min_length=1, max_length=MOST_NAME, pattern=TEXT_PATTERN)
]
QueryNumber: TypeAlias = Annotated[float, Query(allow_inf_nan=False)]
QueryFlag: TypeAlias = Annotated[bool, BeforeValidator(_read_flag), Query()]
QueryMoment: TypeAlias = Annotated[
    datetime,
    BeforeValidator(read_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
    Query(),
]
