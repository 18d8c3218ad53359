"""What became of the bars that were forecast: one row a service and bar, whoever forecast it.

The first value known of a bar stays in its row; a later one takes its place beside it and is
counted. A bar whose outcome did not come in time is marked missing, and is known again only if
it comes after all. Naive forecasts are those of the first match: a revision of the bars changes
the outcome, never what was said before.

Everything travels in columns, because a year of hourly bars is nine thousand rows;
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

from mlops.store.engine import Store
from mlops.store.forecasts import Role
from mlops.store.schema import forecast, outcome

FloatArray = NDArray[np.float64]
TimeArray = NDArray[np.datetime64]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedOutcomes:
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
class MatchedForecasts:
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

    def take(self, rows: NDArray[Any]) -> MatchedForecasts:
        """Those rows, by mask, slice positions or numbers."""
        return MatchedForecasts(*(getattr(self, column.name)[rows] for column in fields(self)))


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


def read_recorded(
    store: Store, service: str, *, since: datetime, until: datetime
) -> RecordedOutcomes:
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
        sa.select(_stamp(made.c.bar), outcome.c.revisions, outcome.c.value)
        .select_from(made.outerjoin(outcome, known))
        .order_by(made.c.bar)
    )
    with store.read() as connection:
        bar, revisions, value = _columns(connection.execute(query), 3)
    return RecordedOutcomes(
        bar=_times(bar),
        recorded=np.array([count is not None for count in revisions], dtype=bool),
        value=_floats(value),
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
        .select_from(_joined())
        .where(*_chosen(service, role, model_id, since, until), outcome.c.value.is_not(None))
        .order_by(forecast.c.bar, forecast.c.model_id)
    )
    with store.read() as connection:
        columns = _columns(connection.execute(query), len(fields(MatchedForecasts)))
    named = dict(zip((column.name for column in fields(MatchedForecasts)), columns, strict=True))
    return MatchedForecasts(
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


class _stamp(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function it is
    """A time as it travels fastest: text from SQLite, microseconds since 1970 from Postgres."""

    inherit_cache = True


@compiles(_stamp, "sqlite")
def _on_sqlite(element: _stamp, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_stamp, "postgresql")
def _on_postgres(element: _stamp, compiler: Any, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return f"(EXTRACT(EPOCH FROM {column}) * 1000000)::bigint"


def _columns(result: sa.CursorResult[Any], width: int) -> list[Sequence[Any]]:
    # Straight from the driver, for no value needs to be made into another.
    assert result.cursor is not None
    rows = result.cursor.fetchall()
    return [list(map(itemgetter(place), rows)) for place in range(width)]


def _times(values: Sequence[str | int]) -> TimeArray:
    if values and isinstance(values[0], str):
        return np.array(values, dtype="datetime64[us]")
    return np.array(values, dtype=np.int64).view("datetime64[us]")


def _floats(values: Sequence[float | None]) -> FloatArray:
    return np.array(values, dtype=np.float64)
