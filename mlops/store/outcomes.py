"""What became of the bars that were forecast: one row a service and bar, whoever forecast it.

The first value known of a bar stays in its row; a later one takes its place beside it and is
counted. A bar whose outcome did not come in time is marked missing, and is known again only if
it comes after all. Naive forecasts are those of the first match: a revision of the bars changes
the outcome, never what was said before.

Everything travels in columns, because a year of hourly bars is nine thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from mlops.errors import StoreError
from mlops.store.dialects import insert_for
from mlops.store.engine import Store
from mlops.store.forecasts import Role
from mlops.store.schema import forecast, outcome

FloatArray = NDArray[np.float64]
TimeArray = NDArray[np.datetime64]

ROWS_AT_ONCE = 20_000
"""Rows of one transaction: on SQLite nobody else writes meanwhile."""

_NAIVE = sa.DateTime()
"""Columns of times are read and written as they lie: naive UTC."""


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Bars (n,) that a service has forecasts of, oldest first, and what is on record of each.

    ``bar`` is naive UTC ``datetime64[us]``; ``recorded`` says that there is a row, ``value`` is
    NaN where there is none or the outcome is missing, ``revisions`` counts.
    """

    bar: TimeArray
    recorded: NDArray[np.bool_]
    value: FloatArray
    revisions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bar)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
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
class Changes:
    """What a look at the bars of one service changes.

    ``new`` outcomes have no row yet, ``arrived`` ones had been marked missing, ``revised`` ones
    had another value after ``revisions`` (n,) revisions; ``missing`` are bars to be marked.
    """

    service: str
    new: Labelled
    arrived: Labelled
    revised: Labelled
    revisions: NDArray[np.int64]
    missing: TimeArray

    def __len__(self) -> int:
        return len(self.new) + len(self.arrived) + len(self.revised) + len(self.missing)


@dataclass(slots=True)
class Written:
    """How many rows of each kind were changed; what another process was first to write is not."""

    new: int = 0
    arrived: int = 0
    revised: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Forecasts (n,) with a known outcome, by bar and then version; times are naive UTC.

    ``first_value`` is what was known first, ``known_at`` the close of the last bar of the
    outcome; ``baseline`` and ``next_return`` are NaN where there was none.
    """

    bar: TimeArray
    model_id: NDArray[np.object_]
    role: NDArray[np.object_]
    forecast: FloatArray
    value: FloatArray
    first_value: FloatArray
    persistence: FloatArray
    baseline: FloatArray
    next_return: FloatArray
    revisions: NDArray[np.int64]
    known_at: TimeArray

    def __len__(self) -> int:
        return len(self.bar)

    def take(self, rows: NDArray[Any]) -> Matched:
        """Those rows, by mask, slice positions or numbers."""
        return Matched(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Forecasts of a stretch of bars and what became of them.

    ``arrived`` were known only after they had been marked missing; ``waiting`` have no outcome
    on record yet. ``forecasts = known + missing + waiting``.
    """

    forecasts: int = 0
    known: int = 0
    missing: int = 0
    revised: int = 0
    arrived: int = 0
    waiting: int = 0


def read_standing(store: Store, service: str, *, since: datetime, until: datetime) -> Standing:
    """Every bar opened in ``[since, until)`` that the service has a forecast of."""
    made = (
        sa.select(forecast.c.bar)
        .where(forecast.c.service == service)
        .where(forecast.c.bar >= since, forecast.c.bar < until)
        .distinct()
        .subquery()
    )
    known = sa.and_(outcome.c.service == service, outcome.c.bar == made.c.bar)
    query = (
        sa.select(_raw(made.c.bar), outcome.c.revisions, outcome.c.value)
        .select_from(made.outerjoin(outcome, known))
        .order_by(made.c.bar)
    )
    with store.read() as connection:
        bar, revisions, value = _columns(connection.execute(query), 3)
    return Standing(
        bar=_times(bar),
        recorded=np.array([count is not None for count in revisions], dtype=bool),
        value=_floats(value),
        revisions=np.array([count or 0 for count in revisions], dtype=np.int64),
    )


def write_changes(store: Store, changes: Sequence[Changes], *, at: datetime) -> list[Written]:
    """Write what was found at market time ``at``; what stands already is written no second time.

    Services share transactions of at most `ROWS_AT_ONCE` rows, each whole or not at all.
    """
    written = [Written() for _ in changes]
    parts = [part for number, one in enumerate(changes) for part in _parts(number, one, at)]
    for together in _batches(parts):
        with store.write() as connection:
            for part in together:
                done = part.write(connection)
                before = getattr(written[part.number], part.kind)
                setattr(written[part.number], part.kind, before + done)
    return written


def read_matched(
    store: Store,
    service: str,
    *,
    role: Role | None = None,
    model_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Matched:
    """Forecasts of bars opened in ``[since, until)`` whose outcome is known, oldest first."""
    query = (
        sa.select(
            _raw(forecast.c.bar),
            forecast.c.model_id,
            forecast.c.role,
            forecast.c.value.label("forecast"),
            outcome.c.value,
            outcome.c.first_value,
            outcome.c.persistence,
            outcome.c.baseline,
            outcome.c.next_return,
            outcome.c.revisions,
            _raw(outcome.c.known_at),
        )
        .select_from(_joined())
        .where(*_chosen(service, role, model_id, since, until), outcome.c.value.is_not(None))
        .order_by(forecast.c.bar, forecast.c.model_id)
    )
    with store.read() as connection:
        columns = _columns(connection.execute(query), len(fields(Matched)))
    named = dict(zip((column.name for column in fields(Matched)), columns, strict=True))
    return Matched(
        bar=_times(named["bar"]),
        model_id=np.array(named["model_id"], dtype=object),
        role=np.array([Role(role) for role in named["role"]], dtype=object),
        revisions=np.array(named["revisions"], dtype=np.int64),
        known_at=_times(named["known_at"]),
        **{name: _floats(named[name]) for name in _NUMBERS},
    )


def count_outcomes(
    store: Store,
    service: str,
    *,
    role: Role | None = None,
    model_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> OutcomeCounts:
    """What became of the forecasts of bars opened in ``[since, until)``."""
    known, marked = outcome.c.value.is_not(None), outcome.c.missing_at.is_not(None)
    sums = {
        "known": known,
        "missing": outcome.c.value.is_(None) & marked,
        "revised": known & (outcome.c.revisions > 0),
        "arrived": known & marked,
        "waiting": outcome.c.bar.is_(None),
    }
    counted = [sa.func.sum(sa.case((what, 1), else_=0)).label(name) for name, what in sums.items()]
    query = (
        sa.select(sa.func.count().label("forecasts"), *counted)
        .select_from(_joined(outer=True))
        .where(*_chosen(service, role, model_id, since, until))
    )
    with store.read() as connection:
        row = connection.execute(query).one()
    return OutcomeCounts(**{name: int(number or 0) for name, number in row._mapping.items()})


_NUMBERS = ("forecast", "value", "first_value", "persistence", "baseline", "next_return")


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of one kind of one service that are written by one statement; columns by name."""

    number: int
    kind: str
    columns: dict[str, NDArray[Any]]
    service: str

    def __len__(self) -> int:
        return len(self.columns["bar"])

    def write(self, connection: sa.Connection) -> int:
        """How many rows changed.

        The driver gets its rows as they are: preparing each value in turn would take SQLAlchemy
        four times as long as writing takes the database.
        """
        compiled = _STATEMENTS[self.kind](connection).compile(dialect=connection.dialect)
        as_text = connection.dialect.name == "sqlite"
        columns = {f"b_{name}": _plain(values, as_text) for name, values in self.columns.items()}
        columns["b_service"] = [self.service] * len(self)
        rows: list[Any]
        if compiled.positiontup is None:
            names = tuple(columns)
            rows = [
                dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        else:
            rows = list(zip(*(columns[name] for name in compiled.positiontup), strict=True))
        done = connection.exec_driver_sql(
            str(compiled), rows, execution_options={"preserve_rowcount": True}
        )
        return int(done.rowcount)


def _parts(number: int, changes: Changes, at: datetime) -> Iterable[_Part]:
    if at.tzinfo is None:
        raise StoreError(f"time {at.isoformat()} has no zone; pass an aware UTC datetime")
    now = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
    labelled = {"new": changes.new, "arrived": changes.arrived, "revised": changes.revised}
    kinds: dict[str, dict[str, NDArray[Any]]] = {
        kind: {column.name: getattr(rows, column.name) for column in fields(Labelled)}
        for kind, rows in labelled.items()
    }
    kinds["revised"]["revisions"] = changes.revisions
    kinds["missing"] = {"bar": changes.missing}
    for kind, columns in kinds.items():
        size = len(columns["bar"])
        for first in range(0, size, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            cut = {name: column[rows] for name, column in columns.items()}
            yield _Part(number, kind, cut | {"now": np.full(len(cut["bar"]), now)}, changes.service)


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


def _insert_new(connection: sa.Connection) -> Any:
    values = {name: _given(name) for name in ("service", "bar", "known_at", "value")}
    values |= {name: _given(name) for name in ("persistence", "baseline", "next_return")}
    values |= {
        "first_value": _given("value"),
        "matched_at": _given("now"),
        "revisions": sa.literal_column("0"),
    }
    return insert_for(connection, outcome).values(values).on_conflict_do_nothing()


def _insert_missing(connection: sa.Connection) -> Any:
    values = {"service": _given("service"), "bar": _given("bar"), "missing_at": _given("now")}
    values |= {"revisions": sa.literal_column("0")}
    return insert_for(connection, outcome).values(values).on_conflict_do_nothing()


def _fill_arrived(_: sa.Connection) -> Any:
    names = ("known_at", "value", "persistence", "baseline", "next_return")
    values = {name: _given(name) for name in names}
    values |= {"first_value": _given("value"), "matched_at": _given("now")}
    return _update().where(outcome.c.value.is_(None)).values(values)


def _replace_revised(_: sa.Connection) -> Any:
    # Whoever read the same value revises it first, and only once.
    values = {name: _given(name) for name in ("known_at", "value", "next_return")}
    values |= {
        "revised_at": _given("now"),
        "revisions": outcome.c.revisions + sa.literal_column("1"),
    }
    return _update().where(outcome.c.revisions == _given("revisions")).values(values)


def _update() -> Any:
    return outcome.update().where(
        outcome.c.service == _given("service"), outcome.c.bar == _given("bar")
    )


_STATEMENTS = {
    "new": _insert_new,
    "missing": _insert_missing,
    "arrived": _fill_arrived,
    "revised": _replace_revised,
}


def _given(name: str) -> Any:
    types = {
        "bar": _NAIVE,
        "known_at": _NAIVE,
        "now": _NAIVE,
        "service": sa.String(),
        "revisions": sa.Integer(),
    }
    return sa.bindparam(f"b_{name}", type_=types.get(name, sa.Float()))


def _joined(*, outer: bool = False) -> Any:
    same = sa.and_(outcome.c.service == forecast.c.service, outcome.c.bar == forecast.c.bar)
    return forecast.join(outcome, same, isouter=outer)


def _chosen(
    service: str,
    role: Role | None,
    model_id: str | None,
    since: datetime | None,
    until: datetime | None,
) -> list[Any]:
    wanted = [forecast.c.service == service]
    if role is not None:
        wanted.append(forecast.c.role == role)
    if model_id is not None:
        wanted.append(forecast.c.model_id == model_id)
    if since is not None:
        wanted.append(forecast.c.bar >= since)
    if until is not None:
        wanted.append(forecast.c.bar < until)
    return wanted


def _raw(column: Any) -> Any:
    return sa.type_coerce(column, _NAIVE).label(column.name)


def _columns(result: sa.CursorResult[Any], width: int) -> list[Sequence[Any]]:
    rows = result.all()
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _times(values: Sequence[datetime | None]) -> TimeArray:
    return np.array(values, dtype="datetime64[us]")


def _floats(values: Sequence[float | None]) -> FloatArray:
    return np.array(values, dtype=np.float64)


def _plain(values: NDArray[Any], as_text: bool) -> list[Any]:
    """What the driver takes; None for what is no number. SQLite keeps times as text."""
    if values.dtype.kind == "M":
        times = values.astype("datetime64[us]")
        if not as_text:
            return list(times.tolist())
        return [stamp.replace("T", " ") for stamp in np.datetime_as_string(times).tolist()]
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - NaN
