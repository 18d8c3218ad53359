"""Outcomes of forecast bars: one row per service and bar, read as arrays.

    no row -> known -> revised, once or more often
    no row -> missing -> known (arrived late)

A row keeps the first value of its bar beside the latest one. The naive forecasts are those of the
first match: a revision of the bars changes the outcome, never a forecast.

Rows are read as columns, because a year of hourly bars is nine thousand rows;
`mlops.store.outcome_writes` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import itemgetter
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from mlops.arrays import BoolArray, FloatArray, IntArray, TimeArray
from mlops.store.engine import Store
from mlops.store.forecasts import Role
from mlops.store.schema import forecast, outcome


@dataclass(frozen=True, slots=True, eq=False)
class RecordedOutcomes:
    """Forecast bars (n,) of a service, oldest first, with the outcome on record.

    ``bar`` is naive UTC ``datetime64[us]``; ``recorded`` says that the bar has a row, ``value`` is
    NaN without a row or with a missing outcome, ``revisions`` counts the later values.
    """

    bar: TimeArray
    recorded: BoolArray
    value: FloatArray
    revisions: IntArray

    def __len__(self) -> int:
        return len(self.bar)


@dataclass(frozen=True, slots=True, eq=False)
class MatchedForecasts:
    """Forecasts (n,) with a known outcome, by bar and then version; times are naive UTC.

    ``first_value`` is the first value on record, ``known_at`` the close of the last bar of the
    outcome; ``baseline`` and ``next_return`` are NaN if there was none.
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
    revisions: IntArray
    known_at: TimeArray

    def __len__(self) -> int:
        return len(self.bar)

    def take(self, rows: NDArray[Any]) -> MatchedForecasts:
        """The rows selected by a mask or by positions."""
        return MatchedForecasts(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class ArmForecasts:
    """Bars (n,) with a forecast of either of two versions or an outcome, oldest first.

    ``bar`` is naive UTC ``datetime64[us]``. All else is NaN where there is none: the forecasts of
    both versions, the outcome by its newest ``value``, and what was known of the bar itself.
    """

    bar: TimeArray
    champion: FloatArray
    challenger: FloatArray
    value: FloatArray
    persistence: FloatArray
    baseline: FloatArray
    next_return: FloatArray

    def __len__(self) -> int:
        return len(self.bar)


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Forecasts of a range of bars by the state of their outcome.

    ``arrived`` outcomes came after they had been marked missing; ``waiting`` forecasts have no
    outcome on record yet. ``forecasts = known + missing + waiting``.
    """

    forecasts: int = 0
    known: int = 0
    missing: int = 0
    revised: int = 0
    arrived: int = 0
    waiting: int = 0


def read_recorded(
    store: Store, service: str, *, since: datetime, until: datetime
) -> RecordedOutcomes:
    """All bars opened in ``[since, until)`` that the service has forecast, with their outcomes."""
    made = (
        sa.select(forecast.c.bar)
        .where(forecast.c.service == service)
        .where(forecast.c.bar >= since, forecast.c.bar < until)
        .distinct()
        .subquery()
    )
    known = sa.and_(outcome.c.service == service, outcome.c.bar == made.c.bar)
    query = (
        sa.select(_stamp(made.c.bar), outcome.c.revisions, outcome.c.value)
        .select_from(made.outerjoin(outcome, known))
        .order_by(made.c.bar)
    )
    with store.read() as connection:
        bar, revisions, value = _fetch_columns(connection.execute(query), 3)
    return RecordedOutcomes(
        bar=_to_times(bar),
        recorded=np.array([count is not None for count in revisions], dtype=bool),
        value=_to_floats(value),
        revisions=np.array([count or 0 for count in revisions], dtype=np.int64),
    )


def read_matched(
    store: Store,
    service: str,
    *,
    role: Role | None = None,
    model_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> MatchedForecasts:
    """Forecasts of bars opened in ``[since, until)`` whose outcome is known, oldest first."""
    query = (
        sa.select(
            _stamp(forecast.c.bar),
            forecast.c.model_id,
            forecast.c.role,
            forecast.c.value.label("forecast"),
            outcome.c.value,
            outcome.c.first_value,
            outcome.c.persistence,
            outcome.c.baseline,
            outcome.c.next_return,
            outcome.c.revisions,
            _stamp(outcome.c.known_at),
        )
        .select_from(_join_outcomes())
        .where(*_conditions(service, role, model_id, since, until), outcome.c.value.is_not(None))
        .order_by(forecast.c.bar, forecast.c.model_id)
    )
    with store.read() as connection:
        columns = _fetch_columns(connection.execute(query), len(fields(MatchedForecasts)))
    named = dict(zip((column.name for column in fields(MatchedForecasts)), columns, strict=True))
    return MatchedForecasts(
        bar=_to_times(named["bar"]),
        model_id=np.array(named["model_id"], dtype=object),
        role=np.array([Role(role) for role in named["role"]], dtype=object),
        revisions=np.array(named["revisions"], dtype=np.int64),
        known_at=_to_times(named["known_at"]),
        **{name: _to_floats(named[name]) for name in _FLOAT_COLUMNS},
    )


def read_arms(
    store: Store,
    service: str,
    *,
    champion_id: str,
    challenger_id: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> ArmForecasts:
    """The forecasts of two versions of bars opened in ``[since, until)``, beside the outcomes.

    A version's forecast counts whatever its role: a former champion's is one of record.
    """
    arms = (champion_id, challenger_id)
    made = sa.select(_stamp(forecast.c.bar), forecast.c.model_id, forecast.c.value).where(
        *_conditions(service, None, None, since, until), forecast.c.model_id.in_(arms)
    )
    columns = [outcome.c[name] for name in _OUTCOME_COLUMNS]
    known = sa.select(_stamp(outcome.c.bar), *columns).where(outcome.c.service == service)
    if since is not None:
        known = known.where(outcome.c.bar >= since)
    if until is not None:
        known = known.where(outcome.c.bar < until)
    with store.read() as connection:
        made_at, model_id, said = _fetch_columns(connection.execute(made), 3)
        known_at, *values = _fetch_columns(connection.execute(known), 1 + len(columns))
    stamps, outcome_stamps = _to_times(made_at), _to_times(known_at)
    bar = np.unique(np.concatenate([stamps, outcome_stamps]))

    def place(at: TimeArray, numbers: FloatArray) -> FloatArray:
        column = np.full(len(bar), np.nan)
        column[np.searchsorted(bar, at)] = numbers
        return column

    names, forecasts = np.array(model_id, dtype=object), _to_floats(said)
    own = [names == arm for arm in arms]
    return ArmForecasts(
        bar,
        *(place(stamps[rows], forecasts[rows]) for rows in own),
        *(place(outcome_stamps, _to_floats(column)) for column in values),
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
    """Count the forecasts of bars opened in ``[since, until)`` by the state of their outcome."""
    known, marked = outcome.c.value.is_not(None), outcome.c.missing_at.is_not(None)
    sums = {
        "known": known,
        "missing": outcome.c.value.is_(None) & marked,
        "revised": known & (outcome.c.revisions > 0),
        "arrived": known & marked,
        "waiting": outcome.c.bar.is_(None),
    }
    counted = [
        sa.func.sum(sa.case((condition, 1), else_=0)).label(name)
        for name, condition in sums.items()
    ]
    query = (
        sa.select(sa.func.count().label("forecasts"), *counted)
        .select_from(_join_outcomes(outer=True))
        .where(*_conditions(service, role, model_id, since, until))
    )
    with store.read() as connection:
        row = connection.execute(query).one()
    return OutcomeCounts(**{name: int(number or 0) for name, number in row._mapping.items()})


_FLOAT_COLUMNS = ("forecast", "value", "first_value", "persistence", "baseline", "next_return")
_OUTCOME_COLUMNS = ("value", "persistence", "baseline", "next_return")


def _join_outcomes(*, outer: bool = False) -> Any:
    same = sa.and_(outcome.c.service == forecast.c.service, outcome.c.bar == forecast.c.bar)
    return forecast.join(outcome, same, isouter=outer)


def _conditions(
    service: str,
    role: Role | None,
    model_id: str | None,
    since: datetime | None,
    until: datetime | None,
) -> list[Any]:
    conditions = [forecast.c.service == service]
    if role is not None:
        conditions.append(forecast.c.role == role)
    if model_id is not None:
        conditions.append(forecast.c.model_id == model_id)
    if since is not None:
        conditions.append(forecast.c.bar >= since)
    if until is not None:
        conditions.append(forecast.c.bar < until)
    return conditions


class _stamp(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function it is
    """A time in its fastest form: text on SQLite, microseconds since 1970 on Postgres."""

    inherit_cache = True


@compiles(_stamp, "sqlite")
def _on_sqlite(element: _stamp, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_stamp, "postgresql")
def _on_postgres(element: _stamp, compiler: Any, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return f"(EXTRACT(EPOCH FROM {column}) * 1000000)::bigint"


def _fetch_columns(result: sa.CursorResult[Any], width: int) -> list[Sequence[Any]]:
    # From the driver directly: no value needs SQLAlchemy's conversion.
    assert result.cursor is not None
    rows = result.cursor.fetchall()
    return [list(map(itemgetter(place), rows)) for place in range(width)]


def _to_times(values: Sequence[str | int]) -> TimeArray:
    if values and isinstance(values[0], str):
        return np.array(values, dtype="datetime64[us]")
    return np.array(values, dtype=np.int64).view("datetime64[us]")


def _to_floats(values: Sequence[float | None]) -> FloatArray:
    return np.array(values, dtype=np.float64)
