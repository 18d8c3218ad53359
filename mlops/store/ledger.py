"""The ledger of multiple testing: trials of searches, and the alpha that refits have spent.

Every trial of every search counts for ever; the gates correct for their number.

Refits of an unchanged recipe are not searches, but each is one more chance of a false promotion.
They share a yearly budget of alpha (5 % by default), which accrues continuously:

    available(now) = min(yearly * (now - last spend) / 365 days,
                         yearly - everything spent in the last 365 days)

where a service without a refit accrues from the day it began. So a daily refit is judged at
0.05 / 365, a refit after a quiet half year at 0.025, and no 365 days ever spend more than the
budget, however the refits are timed. Time is market time: a rehearsed year has a year's budget.

A judged version from elsewhere is one more trial, in a study of its own. Its row holds the level
that it may spend, which follows from the number of studies before it.

Each A/B test has a row with its own level, which no budget pays for: it is what one test may err.

A row's key names the trial or refit, so a retry after a crash neither counts nor spends twice.
Rows are never altered, so the ledger is its own audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    AB_TEST = "ab_test"


def record_trials(
    store: Store, service: str, *, study: str, numbers: Iterable[int], at: datetime
) -> int:
    """Record a study's trials by their numbers; returns how many were new."""
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


@dataclass(frozen=True, slots=True)
class JudgedTrial:
    """The row of one judged version.

    Args:
        place: Its study's number among the studies of its service, from 1.
        alpha: The level that the ledger granted it.
    """

    place: int
    alpha: float


def record_judged_trial(
    store: Store,
    service: str,
    *,
    study: str,
    watermark: str,
    recipe_digest: str,
    at: datetime,
    level: Callable[[int], float],
) -> JudgedTrial:
    """Record the trial of a judged version, a study of its own, and what it may spend.

    Args:
        study: Names version and evidence: a second call with it changes nothing and returns what
            the first one returned.
        watermark: Content hash of the bars that it is judged on.
        recipe_digest: Digest of its recipe.
        at: Market time (UTC).
        level: The level that the n-th study of a service may spend.
    """
    with store.write() as connection:
        # Two judgements at once must not have one place.
        connection.execute(
            sa.select(route.c.service).where(route.c.service == service).with_for_update()
        )
        places = _read_studies(connection, service)
        if study in places:
            return _read_judged(connection, service, study, places[study])
        place = len(places) + 1
        connection.execute(
            ledger.insert().values(
                service=service,
                kind=Kind.TRIAL,
                key=f"{study}/0",
                study=study,
                number=0,
                watermark=watermark,
                recipe_digest=recipe_digest,
                alpha_spent=level(place),
                at=at,
            )
        )
        return _read_judged(connection, service, study, place)


def count_studies(store: Store, service: str) -> int:
    """The number of all studies of a service: searches and judged versions."""
    with store.read() as connection:
        return len(_read_studies(connection, service))


def record_ab_test(
    connection: sa.Connection, service: str, *, test_id: str, alpha: float, at: datetime
) -> None:
    """Record an A/B test and its level, in the transaction that begins it.

    Args:
        connection: The caller's transaction.
        service: Key of the service.
        test_id: The test; a second call changes nothing.
        alpha: The chance that the test names one of two equal versions better.
        at: Open of its first bar (market time).
    """
    row = {"service": service, "kind": Kind.AB_TEST, "key": test_id, "alpha_spent": alpha, "at": at}
    insert_new(connection, ledger, [row])


def count_ab_tests(store: Store, service: str, *, until: datetime) -> int:
    """The A/B tests of a service that began in the 365 days up to ``until`` (market time)."""
    counted = _rows_of(service, Kind.AB_TEST).where(
        ledger.c.at > until - YEAR, ledger.c.at <= until
    )
    with store.read() as connection:
        return int(connection.execute(counted.with_only_columns(sa.func.count())).scalar_one())


def count_trials(store: Store, service: str) -> int:
    """The number of all trials that the service has ever had."""
    counted = _rows_of(service, Kind.TRIAL).with_only_columns(sa.func.count())
    with store.read() as connection:
        return int(connection.execute(counted).scalar_one())


def alpha_for_refit(
    store: Store, service: str, now: datetime, *, yearly: float = YEARLY_ALPHA
) -> float:
    """The significance level that a refit would be granted now; the module has the rule."""
    with store.read() as connection:
        return _accrued_alpha(connection, service, now, yearly)


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
    """Spend alpha on one refit; returns the level at which to judge the refit.

    A refit is identified by its data and recipe: a second call, as after a crash, returns what the
    first one spent.

    Args:
        store: The store.
        service: Key of the service.
        watermark: Content hash of the bars of the refit.
        recipe_digest: Digest of its recipe.
        now: Market time (UTC).
        alpha: The level to spend; None for all that has accrued.
        yearly: The service's budget for 365 days.

    Raises:
        StoreError: when ``alpha`` is more than has accrued, or the service has not begun.

    A service that began 73 days ago has accrued a fifth of its year:

        >>> import tempfile
        >>> from datetime import UTC
        >>> from mlops.store import ModelVersion, Status, Why, open_store
        >>> from mlops.store.routes import begin_route
        >>> from mlops.store.versions import insert_version
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = open_store(f"sqlite:///{folder.name}/store.db")
        >>> began = datetime(2024, 1, 1, tzinfo=UTC)
        >>> baseline = ModelVersion(
        ...     "btc-1", "btc", 1, "run", "persistence", "BTC/USD", Status.DEPLOYED, digest="",
        ...     bundle_uri="", watermark="", trained_until=None, recipe_digest="",
        ...     claims_only=False, code_version="", created_at=began,
        ... )
        >>> with store.write() as connection:
        ...     insert_version(connection, baseline, Why(began))
        ...     _ = begin_route(connection, "btc", baseline.model_id, Why(began))
        >>> now = began + timedelta(days=73)
        >>> level = spend_alpha(store, "btc", watermark="bars", recipe_digest="lstm", now=now)
        >>> round(level, 6)
        0.01
        >>> store.close(), folder.cleanup()
        (None, None)
    """
    key = f"{watermark}/{recipe_digest}"
    with store.write() as connection:
        # Lock the service's route, so that concurrent refits do not spend the same alpha.
        connection.execute(
            sa.select(route.c.service).where(route.c.service == service).with_for_update()
        )
        mine = _rows_of(service, Kind.REFIT).where(ledger.c.key == key)
        spent = connection.execute(mine.with_only_columns(ledger.c.alpha_spent)).scalar()
        if spent is not None:
            return float(spent)
        available = _accrued_alpha(connection, service, now, yearly)
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


def _accrued_alpha(connection: sa.Connection, service: str, now: datetime, yearly: float) -> float:
    refits = _rows_of(service, Kind.REFIT)
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


def _read_studies(connection: sa.Connection, service: str) -> dict[str, int]:
    """The studies of a service in the order of their first trials, each with its place."""
    first = sa.func.min(ledger.c.id)
    query = (
        sa.select(ledger.c.study)
        .where(ledger.c.service == service, ledger.c.kind == Kind.TRIAL)
        .group_by(ledger.c.study)
        .order_by(first)
    )
    return {name: n for n, name in enumerate(connection.execute(query).scalars(), start=1)}


def _read_judged(connection: sa.Connection, service: str, study: str, place: int) -> JudgedTrial:
    spent = sa.select(ledger.c.alpha_spent).where(
        ledger.c.service == service, ledger.c.kind == Kind.TRIAL, ledger.c.study == study
    )
    return JudgedTrial(place, float(connection.execute(spent).scalar_one()))


def _rows_of(service: str, kind: Kind) -> sa.Select[tuple[int]]:
    return sa.select(ledger.c.id).where(ledger.c.service == service, ledger.c.kind == kind)
