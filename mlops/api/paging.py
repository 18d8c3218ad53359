"""Cursors: where a page ended, as a text that a caller hands back and need not read.

A list answers ``next``; the next page is the same request with ``cursor`` set to it. ``next`` is
null at the end.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, TypeAlias

import orjson
from fastapi import Query

from mlops.api.documents import read_moment, write_moment
from mlops.api.problems import Problem
from mlops.store.pages import Position

MOST_ROWS, USUAL_ROWS = 200, 50

Cursor: TypeAlias = Annotated[
    str | None,
    Query(
        max_length=1000,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="The `next` of the page before; left out for the first page",
    ),
]
Limit: TypeAlias = Annotated[int, Query(ge=1, le=MOST_ROWS, description="Most rows of the page")]


def write_cursor(position: Position | None) -> str | None:
    """The cursor of a position; None at the end."""
    return None if position is None else _encode([write_moment(position.at), position.id])


def read_cursor(cursor: str | None) -> Position | None:
    """The position of a cursor; None for the first page.

    Raises:
        Problem: when no list has written it.
    """
    if cursor is None:
        return None
    parts = _decode(cursor)
    if len(parts) != 2:
        raise _refuse()
    try:
        return Position(read_moment(parts[0]), parts[1])
    except ValueError:
        raise _refuse() from None


def write_name_cursor(name: str | None) -> str | None:
    """The cursor of a list that is ordered by name, after this one; None at the end."""
    return None if name is None else _encode([name])


def read_name_cursor(cursor: str | None) -> str | None:
    """The name after which a list goes on; None for the first page.

    Raises:
        Problem: when no list has written it.
    """
    if cursor is None:
        return None
    parts = _decode(cursor)
    if len(parts) != 1:
        raise _refuse()
    return parts[0]


def _encode(parts: list[str]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def _decode(cursor: str) -> list[str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        parts = orjson.loads(base64.urlsafe_b64decode(padded))
    except (binascii.Error, orjson.JSONDecodeError):
        raise _refuse() from None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise _refuse()
    return parts


def _refuse() -> Problem:
    detail = "no list has given this cursor; leave it out, or send the `next` of the page before"
    return Problem("invalid-request", detail, entries=[("query/cursor", detail)])
