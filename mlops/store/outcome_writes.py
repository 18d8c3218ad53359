"""Writes outcomes of forecast bars in bulk, each exactly once.

Every statement carries its own condition (no row yet, still missing, as many revisions as were
read). So if two processes match the same bars, one writes a row and the other changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from mlops.arrays import FloatArray, IntArray, TimeArray, naive_utc
from mlops.errors import StoreError
from mlops.store.engine import Store
from mlops.store.schema import outcome
from mlops.store.sql import dialect_insert

ROWS_AT_ONCE = 20_000
"""Most rows of one transaction: on SQLite no other process writes meanwhile."""

ColumnExpression = Callable[[str], Any]
"""From a column's name to the SQL expression of its values in the rows to be written."""

_PREFIX = "given_"
"""Of bound parameters: SQLAlchemy reserves the plain names of the columns."""


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeBatch:
    """Outcomes (n,) by bar; times are naive UTC, NaN stands for no value.

    ``persistence`` and ``baseline`` are the forecasts of the target's last value and of the
    service's declared baseline, ``next_return`` is the simple return of the bar after it.
    """

    bar: TimeArray
    known_at: TimeArray
    value: FloatArray
    persistence: FloatArray
    baseline: FloatArray
    next_return: FloatArray

    def __len__(self) -> int:
        return len(self.bar)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceOutcomeChanges:
    """All outcome rows of one service that one match of bars inserts or changes.

    ``new`` outcomes have no row yet, ``arrived`` outcomes were marked missing, ``revised`` outcomes
    had another value after ``revisions`` (n,) revisions; ``missing`` are bars to be marked so.
    """

    service: str
    new: OutcomeBatch
    arrived: OutcomeBatch
    revised: OutcomeBatch
    revisions: IntArray
    missing: TimeArray

    def __len__(self) -> int:
        return len(self.new) + len(self.arrived) + len(self.revised) + len(self.missing)


@dataclass(slots=True)
class WrittenCounts:
    """The rows of each kind that this process changed, not those another was first to change."""

    new: int = 0
    arrived: int = 0
    revised: int = 0
    missing: int = 0


def write_outcomes(
    store: Store, changes: Sequence[ServiceOutcomeChanges], *, at: datetime
) -> list[WrittenCounts]:
    """Write the outcomes of several services; returns the changed rows of each.

    Services share transactions of at most `ROWS_AT_ONCE` rows.

    Args:
        store: The store.
        changes: The rows by service.
        at: Market time of the match, aware.

    Raises:
        StoreError: when ``at`` has no time zone.
    """
    written = [WrittenCounts() for _ in changes]
    parts = [
        part
        for number, of_service in enumerate(changes)
        for part in _split_by_kind(number, of_service, at)
    ]
    for together in _group_into_transactions(parts):
        with store.write() as connection:
            for part in together:
                done = part.write(connection)
                before = getattr(written[part.number], part.kind)
                setattr(written[part.number], part.kind, before + done)
    return written


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of one kind and service that one statement writes, as columns by name."""

    number: int
    kind: str
    columns: dict[str, NDArray[Any]]
    service: str
    now: np.datetime64

    def __len__(self) -> int:
        return len(self.columns["bar"])

    def write(self, connection: sa.Connection) -> int:
        """Write the rows; returns how many changed."""
        if connection.dialect.name == "postgresql":
            return self._write_arrays(connection)
        return self._write_rows(connection)

    def _write_rows(self, connection: sa.Connection) -> int:
        # Rows go to the driver directly: SQLAlchemy takes four times as long to prepare a value
        # as SQLite takes to write it.
        statement = _STATEMENTS[self.kind](
            connection, lambda name: sa.bindparam(f"{_PREFIX}{name}", type_=_type_of(name))
        )
        compiled = statement.compile(dialect=connection.dialect)
        columns = {name: _to_sqlite(values) for name, values in self.columns.items()}
        columns["now"] = _to_sqlite(np.array([self.now])) * len(self)
        columns["service"] = [self.service] * len(self)
        order = [name.removeprefix(_PREFIX) for name in compiled.positiontup]
        rows = list(zip(*(columns[name] for name in order), strict=True))
        return int(connection.exec_driver_sql(str(compiled), rows).rowcount)

    def _write_arrays(self, connection: sa.Connection) -> int:
        # One statement with one array per column, each array passed as text: row by row takes the
        # server five times as long, and arrays built by psycopg three times.
        arrays = [
            sa.cast(
                sa.bindparam(name, _to_postgres_array(values), type_=sa.Text()),
                sa.ARRAY(_type_of(name)),
            )
            for name, values in self.columns.items()
        ]
        given = sa.func.unnest(*arrays).table_valued(*self.columns, name="given").render_derived()
        scalars = {"service": self.service, "now": self.now.item()}

        def column(name: str) -> Any:
            if name in scalars:
                return sa.literal(scalars[name], _type_of(name))
            return sa.type_coerce(given.c[name], _type_of(name))

        statement = _STATEMENTS[self.kind](connection, column)
        # Without this option the row count of an insert is always -1 on psycopg.
        statement = statement.execution_options(preserve_rowcount=True)
        return int(connection.execute(statement).rowcount)


def _split_by_kind(number: int, changes: ServiceOutcomeChanges, at: datetime) -> Iterable[_Part]:
    if at.tzinfo is None:
        raise StoreError(f"time {at.isoformat()} has no zone; pass an aware UTC datetime")
    now = naive_utc(at, "us")
    outcomes = {"new": changes.new, "arrived": changes.arrived, "revised": changes.revised}
    kinds: dict[str, dict[str, NDArray[Any]]] = {
        kind: {column.name: getattr(rows, column.name) for column in fields(OutcomeBatch)}
        for kind, rows in outcomes.items()
    }
    kinds["revised"]["revisions"] = changes.revisions
    kinds["missing"] = {"bar": changes.missing}
    for kind, columns in kinds.items():
        size = len(columns["bar"])
        for first in range(0, size, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            cut = {name: column[rows] for name, column in columns.items()}
            yield _Part(number, kind, cut, changes.service, now)


def _group_into_transactions(parts: Sequence[_Part]) -> Iterable[list[_Part]]:
    """Group parts, in order, by `ROWS_AT_ONCE` rows."""
    together: list[_Part] = []
    held = 0
    for part in parts:
        if together and held + len(part) > ROWS_AT_ONCE:
            yield together
            together, held = [], 0
        together.append(part)
        held += len(part)
    if together:
        yield together


def _insert_new(connection: sa.Connection, given: ColumnExpression) -> Any:
    names = ("service", "bar", "known_at", "value", "persistence", "baseline", "next_return")
    values = {name: given(name) for name in names}
    values |= {"first_value": given("value"), "matched_at": given("now"), "revisions": _NONE_YET}
    return _insert_unless_there(connection, values)


def _insert_missing(connection: sa.Connection, given: ColumnExpression) -> Any:
    values = {"service": given("service"), "bar": given("bar"), "missing_at": given("now")}
    return _insert_unless_there(connection, values | {"revisions": _NONE_YET})


def _fill_arrived(_: sa.Connection, given: ColumnExpression) -> Any:
    names = ("known_at", "value", "persistence", "baseline", "next_return")
    values = {name: given(name) for name in names}
    values |= {"first_value": given("value"), "matched_at": given("now")}
    return _update_bar(given).where(outcome.c.value.is_(None)).values(values)


def _replace_revised(_: sa.Connection, given: ColumnExpression) -> Any:
    values = {name: given(name) for name in ("known_at", "value", "next_return")}
    values |= {"revised_at": given("now"), "revisions": outcome.c.revisions + _ONE_MORE}
    return _update_bar(given).where(outcome.c.revisions == given("revisions")).values(values)


def _insert_unless_there(connection: sa.Connection, values: dict[str, Any]) -> Any:
    insert = dialect_insert(connection, outcome)
    if connection.dialect.name == "postgresql":
        return insert.from_select(
            list(values), sa.select(*values.values())
        ).on_conflict_do_nothing()
    return insert.values(values).on_conflict_do_nothing()


def _update_bar(given: ColumnExpression) -> Any:
    same_bar = outcome.c.bar == given("bar")
    return outcome.update().where(outcome.c.service == given("service"), same_bar)


_NONE_YET = sa.literal_column("0", sa.Integer)
_ONE_MORE = sa.literal_column("1", sa.Integer)

_STATEMENTS: dict[str, Callable[[sa.Connection, ColumnExpression], Any]] = {
    "new": _insert_new,
    "missing": _insert_missing,
    "arrived": _fill_arrived,
    "revised": _replace_revised,
}

_TYPES: dict[str, Any] = {
    **dict.fromkeys(("bar", "known_at", "now"), sa.DateTime()),
    "service": sa.String(),
    "revisions": sa.Integer(),
}


def _type_of(name: str) -> Any:
    return _TYPES.get(name, sa.Double())


def _to_sqlite(values: NDArray[Any]) -> list[Any]:
    """Values for SQLite's driver: times as the stored text, None for NaN."""
    if values.dtype.kind == "M":
        stamps = np.datetime_as_string(values.astype("datetime64[us]"))
        # Replace the letter T between day and hour in all texts at once.
        stamps.view("U1").reshape(len(stamps), -1)[:, len("2020-01-01")] = " "
        return list(stamps.tolist())
    if values.dtype.kind == "f" and np.isnan(values).any():
        return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
    return list(values.tolist())


def _to_postgres_array(values: NDArray[Any]) -> str:
    """The array as a Postgres literal; repr keeps every bit of a number."""
    if values.dtype.kind == "M":
        items = np.datetime_as_string(values.astype("datetime64[us]")).tolist()
        return "{" + ",".join(items) + "}"
    return "{" + ",".join(map(repr, values.tolist())).replace("nan", "NULL") + "}"
