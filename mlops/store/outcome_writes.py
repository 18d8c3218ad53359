"""Writes what became of forecast bars, many rows at a time, each exactly once.

Every statement carries its own condition (no row yet, still missing, as often revised as was
read), so that of two processes that look at the same bars one writes and the other counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from mlops.errors import StoreError
from mlops.store.engine import Store
from mlops.store.outcomes import FloatArray, TimeArray
from mlops.store.schema import outcome
from mlops.store.sql import dialect_insert

ROWS_AT_ONCE = 20_000
"""Rows of one transaction: on SQLite nobody else writes meanwhile."""

Given = Callable[[str], Any]
"""The expression that stands for a column of the rows that are written."""

_BOUND = "given_"
"""SQLAlchemy keeps the plain names of columns for itself."""


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeBatch:
    """Outcomes (n,) as the bars give them; times are naive UTC, a value that is none is NaN.

    ``persistence`` and ``baseline`` are what the target's last value and the service's declared
    baseline said of the bar, ``next_return`` is the simple return of the bar after it.
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
    """What a look at the bars of one service changes.

    ``new`` outcomes have no row yet, ``arrived`` ones had been marked missing, ``revised`` ones
    had another value after ``revisions`` (n,) revisions; ``missing`` are bars to be marked.
    """

    service: str
    new: OutcomeBatch
    arrived: OutcomeBatch
    revised: OutcomeBatch
    revisions: NDArray[np.int64]
    missing: TimeArray

    def __len__(self) -> int:
        return len(self.new) + len(self.arrived) + len(self.revised) + len(self.missing)


@dataclass(slots=True)
class WrittenCounts:
    """How many rows of each kind were changed; what another process was first to write is not."""

    new: int = 0
    arrived: int = 0
    revised: int = 0
    missing: int = 0


def write_outcomes(
    store: Store, changes: Sequence[ServiceOutcomeChanges], *, at: datetime
) -> list[WrittenCounts]:
    """Write what was found at market time ``at``; what stands already is written no second time.

    Services share transactions of at most `ROWS_AT_ONCE` rows, each whole or not at all.
    """
    written = [WrittenCounts() for _ in changes]
    parts = [part for number, one in enumerate(changes) for part in _parts(number, one, at)]
    for together in _batches(parts):
        with store.write() as connection:
            for part in together:
                done = part.write(connection)
                before = getattr(written[part.number], part.kind)
                setattr(written[part.number], part.kind, before + done)
    return written


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of one kind of one service that are written by one statement; columns by name."""

    number: int
    kind: str
    columns: dict[str, NDArray[Any]]
    service: str
    now: np.datetime64

    def __len__(self) -> int:
        return len(self.columns["bar"])

    def write(self, connection: sa.Connection) -> int:
        """How many rows changed."""
        if connection.dialect.name == "postgresql":
            return self._as_arrays(connection)
        return self._row_by_row(connection)

    def _row_by_row(self, connection: sa.Connection) -> int:
        # The driver gets its rows as they are: SQLAlchemy would take four times as long to
        # prepare each value as SQLite takes to write it.
        statement = _STATEMENTS[self.kind](connection, _bound)
        compiled = statement.compile(dialect=connection.dialect)
        columns = {name: _plain(values) for name, values in self.columns.items()}
        columns["now"] = _plain(np.array([self.now])) * len(self)
        columns["service"] = [self.service] * len(self)
        order = [name.removeprefix(_BOUND) for name in compiled.positiontup]
        rows = list(zip(*(columns[name] for name in order), strict=True))
        return int(connection.exec_driver_sql(str(compiled), rows).rowcount)

    def _as_arrays(self, connection: sa.Connection) -> int:
        # One statement with an array a column, and each array one text: a server takes as many
        # rows one by one five times as long, and psycopg builds an array three times as long.
        arrays = [
            sa.cast(sa.bindparam(name, _array(values), type_=sa.Text()), sa.ARRAY(_type_of(name)))
            for name, values in self.columns.items()
        ]
        given = sa.func.unnest(*arrays).table_valued(*self.columns, name="given").render_derived()
        scalars = {"service": self.service, "now": self.now.item()}

        def column(name: str) -> Any:
            if name in scalars:
                return sa.literal(scalars[name], _type_of(name))
            return sa.type_coerce(given.c[name], _type_of(name))

        statement = _STATEMENTS[self.kind](connection, column)
        # Unasked, psycopg's count of an insert is always -1.
        statement = statement.execution_options(preserve_rowcount=True)
        return int(connection.execute(statement).rowcount)


def _parts(number: int, changes: ServiceOutcomeChanges, at: datetime) -> Iterable[_Part]:
    if at.tzinfo is None:
        raise StoreError(f"time {at.isoformat()} has no zone; pass an aware UTC datetime")
    now = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
    labelled = {"new": changes.new, "arrived": changes.arrived, "revised": changes.revised}
    kinds: dict[str, dict[str, NDArray[Any]]] = {
        kind: {column.name: getattr(rows, column.name) for column in fields(OutcomeBatch)}
        for kind, rows in labelled.items()
    }
    kinds["revised"]["revisions"] = changes.revisions
    kinds["missing"] = {"bar": changes.missing}
    for kind, columns in kinds.items():
        size = len(columns["bar"])
        for first in range(0, size, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            cut = {name: column[rows] for name, column in columns.items()}
            yield _Part(number, kind, cut, changes.service, now)


def _batches(parts: Sequence[_Part]) -> Iterable[list[_Part]]:
    """Parts in order, as many together as a transaction may hold."""
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


def _insert_new(connection: sa.Connection, given: Given) -> Any:
    names = ("service", "bar", "known_at", "value", "persistence", "baseline", "next_return")
    values = {name: given(name) for name in names}
    values |= {"first_value": given("value"), "matched_at": given("now"), "revisions": _NONE_YET}
    return _insert(connection, values)


def _insert_missing(connection: sa.Connection, given: Given) -> Any:
    values = {"service": given("service"), "bar": given("bar"), "missing_at": given("now")}
    return _insert(connection, values | {"revisions": _NONE_YET})


def _fill_arrived(_: sa.Connection, given: Given) -> Any:
    names = ("known_at", "value", "persistence", "baseline", "next_return")
    values = {name: given(name) for name in names}
    values |= {"first_value": given("value"), "matched_at": given("now")}
    return _update(given).where(outcome.c.value.is_(None)).values(values)


def _replace_revised(_: sa.Connection, given: Given) -> Any:
    values = {name: given(name) for name in ("known_at", "value", "next_return")}
    values |= {"revised_at": given("now"), "revisions": outcome.c.revisions + _ONE_MORE}
    return _update(given).where(outcome.c.revisions == given("revisions")).values(values)


def _insert(connection: sa.Connection, values: dict[str, Any]) -> Any:
    insert = dialect_insert(connection, outcome)
    if connection.dialect.name == "postgresql":
        return insert.from_select(
            list(values), sa.select(*values.values())
        ).on_conflict_do_nothing()
    return insert.values(values).on_conflict_do_nothing()


def _update(given: Given) -> Any:
    same_bar = outcome.c.bar == given("bar")
    return outcome.update().where(outcome.c.service == given("service"), same_bar)


_NONE_YET = sa.literal_column("0", sa.Integer)
_ONE_MORE = sa.literal_column("1", sa.Integer)

_STATEMENTS: dict[str, Callable[[sa.Connection, Given], Any]] = {
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


def _bound(name: str) -> Any:
    return sa.bindparam(f"{_BOUND}{name}", type_=_type_of(name))


def _plain(values: NDArray[Any]) -> list[Any]:
    """What SQLite's driver takes: times as the text they are kept as, None for no number."""
    if values.dtype.kind == "M":
        stamps = np.datetime_as_string(values.astype("datetime64[us]"))
        # All texts at once: the letter between day and hour is at one place in each.
        stamps.view("U1").reshape(len(stamps), -1)[:, len("2020-01-01")] = " "
        return list(stamps.tolist())
    if values.dtype.kind == "f" and np.isnan(values).any():
        return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
    return list(values.tolist())


def _array(values: NDArray[Any]) -> str:
    """An array as Postgres writes it; every bit of a number is kept."""
    if values.dtype.kind == "M":
        items = np.datetime_as_string(values.astype("datetime64[us]")).tolist()
        return "{" + ",".join(items) + "}"
    return "{" + ",".join(map(repr, values.tolist())).replace("nan", "NULL") + "}"
