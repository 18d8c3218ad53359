"""Everything that costs statistical credibility, counted where decisions are made.

Searches: every trial of every study counts, for ever; gates deflate by the count.

Refits of an unchanged recipe are not searches, but each is one more chance to be fooled. They
share a yearly budget of false promotions (5 % by default), which accrues continuously:

    available(now) = min(yearly * (now - last spend) / 365 days,
                         yearly - everything spent in the last 365 days)

where a service that never spent counts from the day it began. So a daily refit is judged at
0.05 / 365, a refit after a quiet half year at 0.025, and no 365 days ever spend more than the
budget, however the refits are timed. Time is market time: a rehearsed year has a year's budget.

A row is unique by what it counts, so a retry after a crash neither counts nor spends twice;
rows are never altered, so the ledger is its own audit trail.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from mlops.errors import StoreError
from mlops.store.engine import Store
from mlops.store.schema import ledger, route
from mlops.store.sql import insert_new

YEAR = timedelta(days=365)
YEARLY_ALPHA = 0.05
_ROUNDING = 1e-12


class Kind(StrEnum):
    """What a row counts."""

    TRIAL = "trial"
    REFIT = "refit"


def record_trials(
    store: Store, service: str, *, study: str, numbers: Iterable[int], at: datetime
) -> int:
    """Count a study's trials by their numbers; returns how many were new."""
    rows = [
        {
            "service": service,
            "kind": Kind.TRIAL,
            "key": f"{study}/{number}",
            "study": study,
            "number": number,
            "alpha_spent": 0.0,
            "at": at,
        }
        for number in numbers
    ]
    with store.write() as connection:
        return insert_new(connection, ledger, rows)


def count_trials(store: Store, service: str) -> int:
    """How many trials the service has ever had."""
    counted = _of(service, Kind.TRIAL).with_only_columns(sa.func.count())
    with store.read() as connection:
        return int(connection.execute(counted).scalar_one())


def alpha_for_refit(
    store: Store, service: str, now: datetime, *, yearly: float = YEARLY_ALPHA
) -> float:
    """The significance level a refit may be judged at now; see the module for the rule."""
    with store.read() as connection:
        return _available(connection, service, now, yearly)


def spend_alpha(
    store: Store,
    service: str,
    *,
    watermark: str,
    recipe_digest: str,
    now: datetime,
    alpha: float | None = None,
    yearly: float = YEARLY_ALPHA,
) -> float:
    """Take the level for one refit out of the budget; judge the refit at what is returned.

    ``alpha`` None takes all that is available. A refit is known by its data and recipe: asking
    again for the same one, as after a crash, returns what was spent then.

    Raises:
        StoreError: when more is asked for than has accrued.
    """
    key = f"{watermark}/{recipe_digest}"
    with store.write() as connection:
        # Spenders of one budget take turns; what the last one spent is read after it is done.
        connection.execute(
            sa.select(route.c.service).where(route.c.service == service).with_for_update()
        )
        mine = _of(service, Kind.REFIT).where(ledger.c.key == key)
        spent = connection.execute(mine.with_only_columns(ledger.c.alpha_spent)).scalar()
        if spent is not None:
            return float(spent)
        available = _available(connection, service, now, yearly)
        granted = available if alpha is None else alpha
        if not 0 <= granted <= available + _ROUNDING:
            raise StoreError(
                f"a refit of {service} asked for alpha {granted:.3g} but {available:.3g} of the "
                f"yearly {yearly:.3g} has accrued; retrain less often or raise the budget"
            )
        connection.execute(
            ledger.insert().values(
                service=service,
                kind=Kind.REFIT,
                key=key,
                watermark=watermark,
                recipe_digest=recipe_digest,
                alpha_spent=granted,
                at=now,
            )
        )
    return granted


def _available(connection: sa.Connection, service: str, now: datetime, yearly: float) -> float:
    refits = _of(service, Kind.REFIT)
    last = connection.execute(refits.with_only_columns(sa.func.max(ledger.c.at))).scalar()
    if last is None:
        began = sa.select(route.c.created_at).where(route.c.service == service)
        last = connection.execute(began).scalar()
    if last is None:
        raise StoreError(f"service {service} has not begun: register its baseline first")
    recent = refits.where(ledger.c.at > now - YEAR)
    spent = connection.execute(
        recent.with_only_columns(sa.func.coalesce(sa.func.sum(ledger.c.alpha_spent), 0.0))
    ).scalar_one()
    elapsed: timedelta = max(now - last, timedelta(0))
    return max(0.0, min(yearly * (elapsed / YEAR), yearly - float(spent)))


def _of(service: str, kind: Kind) -> sa.Select[tuple[int]]:
    return sa.select(ledger.c.id).where(ledger.c.service == service, ledger.c.kind == kind)
