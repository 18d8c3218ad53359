"""What the dashboard counts, in a number of statements that does not grow with the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from mlops.store.engine import Connection
from mlops.store.forecasts import Role
from mlops.store.leases import held_names
from mlops.store.schema import (
    WATCHED,
    AbState,
    Phase,
    Status,
    ab_test,
    check,
    forecast,
    outcome,
    rollout,
    rollout_event,
    route,
    version,
    watch,
)
from mlops.store.sql import store_time
from mlops.store.triggers import training_lease

MOST_BARS = 168
"""The newest known outcomes of a service that errors are measured on; a week of hours."""

ENDED_WITHIN = timedelta(days=30)
"""Rollouts that ended before count no more."""

NO_DEPLOYMENTS = ("shadow", "ab_test")
"""Strategies of rollouts that compare; they are not to take anything live by themselves."""

_BY_MONITOR = "monitor: %"
"""How an abort begins that the monitor asked for; all others were asked for by people."""

_LARGEST = 1e300
"""Not a number is above it on Postgres, and is NULL on SQLite: neither is within these bounds."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many versions, trainings and tests there are; a service that trains holds its lease."""

    versions: int
    deployed: int
    training: int
    running_tests: int


@dataclass(frozen=True, slots=True)
class Deployments:
    """Rollouts that began, were to take a version live, and ended lately."""

    done: int
    ended: int


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Forecasts on bars whose outcome is known, as sums.

    ``outcomes`` and ``squared_outcomes`` are of the outcomes. ``moves`` counts the bars on which
    the outcome moves and ``ups`` those on which it rises, ``calls`` the bars on which the forecast
    moves as well and ``hits`` those on which it moves to the same side.
    """

    bars: int = 0
    squared_errors: float = 0.0
    outcomes: float = 0.0
    squared_outcomes: float = 0.0
    moves: int = 0
    ups: int = 0
    calls: int = 0
    hits: int = 0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            *(getattr(self, name) + getattr(other, name) for name in ErrorSums.__slots__)
        )

    @property
    def relative_mse(self) -> float | None:
        """MSE / variance of the outcomes; None where they do not vary."""
        mean = self.outcomes / self.bars if self.bars else 0.0
        spread = self.squared_outcomes - mean * self.outcomes
        # Below this the difference of the two sums is rounding.
        return self.squared_errors / spread if spread > 1e-12 * self.squared_outcomes else None

    @property
    def accuracy(self) -> float | None:
        """Share of the calls that were right; None where no outcome moves.

        Of forecasts that call no side, such as those of persistence, the share of the side that was
        more common, which is the best that one call for all bars could do.
        """
        if self.calls:
            return self.hits / self.calls
        return max(self.ups, self.moves - self.ups) / self.moves if self.moves else None


@dataclass(frozen=True, slots=True)
class LiveErrors:
    """A deployed version on the newest known outcomes of its service.

    ``own`` are its forecasts; ``record`` are those that the service gave on the same bars, whoever
    made them.
    """

    service: str
    model_id: str
    own: ErrorSums = ErrorSums()
    record: ErrorSums = ErrorSums()


@dataclass(frozen=True, slots=True)
class DriftWord:
    """What the newest deciding look at a version recommends; ``report`` is its drift report."""

    service: str
    model_id: str
    recommendation: str
    report: Mapping[str, Any]


def count_models(connection: Connection) -> Counts:
    """Count versions, trainings under way and running tests."""
    deployed = sa.func.sum(sa.case((version.c.status == Status.DEPLOYED, 1), else_=0))
    versions, live = connection.execute(sa.select(sa.func.count(), deployed)).one()
    tests = sa.select(sa.func.count()).where(ab_test.c.state == AbState.RUNNING)
    of_trainings = training_lease("")
    return Counts(
        versions=int(versions),
        deployed=int(live or 0),
        training=sum(name.startswith(of_trainings) for name in held_names(connection)),
        running_tests=int(connection.execute(tests).scalar_one()),
    )


def count_deployments(connection: Connection) -> Deployments:
    """Count the rollouts that ended in the last `ENDED_WITHIN`, by the store's clock.

    Those that people aborted are left out, as are those that only compared or never began.
    """
    began = sa.exists().where(
        rollout_event.c.rollout_id == rollout.c.id, rollout_event.c.to_phase == Phase.PENDING
    )
    by_people = sa.and_(
        rollout.c.abort_requested.is_not(None), rollout.c.abort_requested.not_like(_BY_MONITOR)
    )
    query = sa.select(
        sa.func.count(), sa.func.sum(sa.case((rollout.c.phase == Phase.DONE, 1), else_=0))
    ).where(
        rollout.c.ended_at >= store_time(connection) - ENDED_WITHIN,
        rollout.c.strategy.not_in(NO_DEPLOYMENTS),
        ~by_people,
        began,
    )
    ended, done = connection.execute(query).one()
    return Deployments(done=int(done or 0), ended=int(ended))


def read_live_errors(connection: Connection, *, most_hours: float) -> tuple[LiveErrors, ...]:
    """The errors of every deployed version on the newest known outcomes of its service.

    Versions without any, and those of retired services, are left out.

    Args:
        connection: The caller's transaction.
        most_hours: Outcomes of bars that are older than the newest by more are left out.
    """
    live = _select_windows(most_hours)
    own, of_record = forecast.c.model_id == live.c.model_id, forecast.c.role == Role.RECORD
    parts = (live.c.service, live.c.model_id, own.label("own"), of_record.label("of_record"))
    query = (
        sa.select(*parts, *_sum_errors(live.c.reference))
        .join(
            outcome,
            sa.and_(
                outcome.c.service == live.c.service,
                outcome.c.bar >= live.c.since,
                outcome.c.bar >= live.c.oldest,
                outcome.c.value.is_not(None),
            ),
        )
        .join(
            forecast,
            sa.and_(
                forecast.c.service == outcome.c.service,
                forecast.c.bar == outcome.c.bar,
                sa.or_(own, of_record),
            ),
        )
        .group_by(*parts)
    )
    found: dict[tuple[str, str], LiveErrors] = {}
    for row in connection.execute(query):
        key, sums = (row.service, row.model_id), _build_sums(row)
        before = found.get(key, LiveErrors(*key))
        # A forecast of record that the version made is one of both.
        found[key] = replace(
            before,
            own=before.own + sums if row.own else before.own,
            record=before.record + sums if row.of_record else before.record,
        )
    return tuple(found[key] for key in sorted(found))


def read_drift_words(connection: Connection, *, quiet: str) -> tuple[DriftWord, ...]:
    """The newest deciding look at each champion and watched version that recommends something.

    Args:
        connection: The caller's transaction.
        quiet: The recommendation that is none.
    """
    in_use = sa.exists().where(route.c.service == check.c.service, route.c.retired_at.is_(None))
    champion = sa.exists().where(
        route.c.service == check.c.service, route.c.champion == check.c.model_id
    )
    watched = sa.exists().where(watch.c.model_id == check.c.model_id, sa.text(WATCHED))
    later = check.alias()
    newest = (
        sa.select(sa.func.max(later.c.bar))
        .where(later.c.service == check.c.service, later.c.model_id == check.c.model_id)
        .where(later.c.official)
        .scalar_subquery()
    )
    query = (
        sa.select(check.c.service, check.c.model_id, check.c.recommendation, check.c.report)
        .where(check.c.official, check.c.recommendation != quiet)
        .where(in_use, sa.or_(champion, watched), check.c.bar == newest)
        .order_by(check.c.service, check.c.model_id)
    )
    return tuple(DriftWord(**row._mapping) for row in connection.execute(query))


def _select_windows(most_hours: float) -> sa.CTE:
    """Of each deployed version the opens of the first bars that may count."""
    known = (outcome.c.service == version.c.service, outcome.c.value.is_not(None))
    newest_first = sa.select(outcome.c.bar).where(*known).order_by(outcome.c.bar.desc()).limit(1)
    newest = newest_first.scalar_subquery()
    first = newest_first.offset(MOST_BARS - 1).scalar_subquery()
    oldest = sa.select(sa.func.min(outcome.c.bar)).where(*known).scalar_subquery()
    return (
        sa.select(
            version.c.service,
            version.c.model_id,
            sa.func.coalesce(first, oldest).label("since"),
            _hours_before(newest, sa.literal(most_hours)).label("oldest"),
            _select_reference().label("reference"),
        )
        .join(route, route.c.service == version.c.service)
        .where(version.c.status == Status.DEPLOYED, route.c.retired_at.is_(None))
        .cte("live")
        # Else the windows are found again for every bar.
        .prefix_with("MATERIALIZED")
    )


def _select_reference() -> sa.ColumnElement[float]:
    """What a service's forecasts move from, by the target in its key; NULL for the last known.

    As `mlops.validation.forecasts.Forecasts.moves` has it: 0 for a return, a half for the chance
    of a direction, the value known when the forecast was made for all else.
    """
    targets = {"%.%.%.return.%": 0.0, "%.%.%.direction.%": 0.5}
    return sa.case(
        *((version.c.service.like(like), sa.literal(at)) for like, at in targets.items()),
        else_=sa.null(),
    )


def _sum_errors(reference: sa.ColumnElement[float]) -> list[sa.Label[Any]]:
    """The fields of `ErrorSums`."""
    value, error = outcome.c.value, forecast.c.value - outcome.c.value
    # What is not a number, on Postgres, moves nowhere.
    known = outcome.c.persistence.between(-_LARGEST, _LARGEST)
    base = sa.func.coalesce(reference, sa.case((known, outcome.c.persistence), else_=value))
    move = value - base
    called = (forecast.c.value - base) * move
    conditions = {
        "moves": move != 0.0,
        "ups": move > 0.0,
        "calls": called != 0.0,
        "hits": called > 0.0,
    }
    return [
        sa.func.count().label("bars"),
        sa.func.sum(error * error).label("squared_errors"),
        sa.func.sum(value).label("outcomes"),
        sa.func.sum(value * value).label("squared_outcomes"),
        *(
            sa.func.sum(sa.case((condition, 1), else_=0)).label(name)
            for name, condition in conditions.items()
        ),
    ]


def _build_sums(row: sa.Row[Any]) -> ErrorSums:
    return ErrorSums(*(row._mapping[name] for name in ErrorSums.__slots__))


class _hours_before(FunctionElement[Any]):  # noqa: N801 - reads as the SQL function it is
    """A time some hours before another, comparable with the times of columns."""

    inherit_cache = True


@compiles(_hours_before, "sqlite")
def _on_sqlite(element: _hours_before, compiler: Any, **options: Any) -> str:
    time, hours = (compiler.process(clause, **options) for clause in element.clauses)
    # Times are texts. One without its fraction sorts before the same one with it.
    return f"datetime({time}, '-' || {hours} || ' hours')"


@compiles(_hours_before, "postgresql")
def _on_postgres(element: _hours_before, compiler: Any, **options: Any) -> str:
    time, hours = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({time} - make_interval(secs => {hours} * 3600.0))"
