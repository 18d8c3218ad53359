"""Pages of rows, the newest first, each continued where the one before it ended.

A page continues after the time and id of a row, not after a count of rows. So rows that are
inserted meanwhile neither repeat a row nor skip one, and a late page costs what the first does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from mlops.store.engine import Connection

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a row: its time, and its id where several have one time."""

    at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows, the newest first; ``next`` is where the next page begins, None at the end."""

    rows: tuple[Row, ...]
    next: Position | None


def read_page(
    connection: Connection,
    query: sa.Select[Any],
    build: Callable[[sa.Row[Any]], Row],
    *,
    time: sa.Column[Any],
    id_: sa.Column[Any],
    after: Position | None,
    limit: int,
) -> Page[Row]:
    """The first rows of a query after a position, in the caller's transaction.

    Args:
        connection: The caller's transaction.
        query: Selects the rows, ``time`` and ``id_`` among the columns, in any order.
        build: Makes the object of a row.
        time: The column by which the rows are ordered.
        id_: The column that orders rows of one time.
        after: Where the page before ended; None for the first page.
        limit: Most rows of the page.
    """
    ordered = query.order_by(time.desc(), id_.desc())
    if after is not None:
        place = sa.tuple_(sa.literal(after.at, time.type), sa.literal(after.id, id_.type))
        ordered = ordered.where(sa.tuple_(time, id_) < place)
    # One row more tells whether there is a next page.
    rows = connection.execute(ordered.limit(limit + 1)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(
        rows=tuple(build(row) for row in rows[:limit]),
        next=None if last is None else Position(last._mapping[time], last._mapping[id_]),
    )
