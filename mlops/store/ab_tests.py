"""A/B tests: which two versions are compared, the looks at them, and the verdict.

A test is carried by a rollout of strategy `ab_test`. Its verdict is written once: by the look that
finds it, or by whatever ends the rollout first. A route changes because of a test only after that.
Looks and tests are never deleted, and a look is never changed.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from mlops.errors import AbTestNotFound, RolloutError
from mlops.store import audit
from mlops.store.engine import Connection, Store
from mlops.store.schema import AbState, Verdict, ab_look, ab_test, forecast_gap, rollout
from mlops.store.sql import dialect_insert, insert_new, store_time


@dataclass(frozen=True, slots=True, kw_only=True)
class AbTest:
    """A comparison of a service's champion with a challenger.

    ``champion_is`` is the caller's name for the champion, ``a`` or ``b``. ``split_bp`` is the
    challenger's share of the requests in basis points. ``since_bar``, ``min_until_bar`` and
    ``until_bar`` are open times in market time: the first bar that counts, the first that may end
    the test for the challenger, and the last. ``record`` describes the losses of both before the
    test (None where they have too few). ``request_key`` names the request, so that a repeated one
    begins no second test; ``request_digest`` is the SHA-256 of what it asked for.
    """

    id: str
    service: str
    champion_id: str
    challenger_id: str
    champion_is: str
    name: str
    split_bp: int
    alpha: float
    since_bar: datetime
    min_until_bar: datetime
    until_bar: datetime
    record: Mapping[str, Any] | None
    promote: bool
    rollout_id: str
    requested_by: str
    requested_why: str
    requested_at: datetime
    request_key: str | None = None
    state: AbState = AbState.RUNNING
    verdict: Verdict | None = None
    verdict_text: str | None = None
    ended_at: datetime | None = None
    request_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AbLook:
    """What one look at a test found; ``bar`` is the newest bar with its outcome.

    ``mean`` is of the champion's loss less the challenger's, so it is positive where the challenger
    is better. ``missing`` counts the bars without a row of an arm by its reason, ``dealt`` the
    requests, both by ``champion`` and ``challenger``; ``holes`` are bars without either row.
    ``word`` is the verdict, None while there is none, and ``digest`` is the SHA-256 of the
    forecasts and outcomes that the look rested on.
    """

    test_id: str
    bar: datetime
    at: datetime
    pairs: int
    mean: float | None
    variance: float | None
    variance_source: str | None
    standard_error: float | None
    z: float | None
    low: float | None
    high: float | None
    relative_low: float | None
    relative_high: float | None
    p: float
    holes: int
    missing: Mapping[str, Mapping[str, int]]
    dealt: Mapping[str, int]
    word: Verdict | None
    detail: Mapping[str, Any]
    digest: str


class GapReason(StrEnum):
    """Why a version has no forecast of a bar.

    Of a version that was loaded, it failed (``fault``) or took too long (``time_budget``).
    """

    NOT_LOADED = "not_loaded"
    FAULT = "fault"
    TIME_BUDGET = "time_budget"


@dataclass(frozen=True, slots=True)
class ForecastGap:
    """A bar that a version did not forecast in a replica; another replica may have."""

    service: str
    bar: datetime
    model_id: str
    reason: GapReason
    replica_id: str
    at: datetime


def new_test_id() -> str:
    """An id that no other test has."""
    return f"ab-{secrets.token_hex(6)}"


def insert_test(connection: Connection, row: AbTest, why: audit.Why) -> None:
    """Insert a test beside its rollout, inside the caller's transaction.

    Raises:
        StoreError: when the service has a running test, or the request has a test already.
    """
    values = {name: getattr(row, name) for name in AbTest.__slots__}
    connection.execute(ab_test.insert().values(**values))
    audit.record(
        connection,
        why,
        action="start_ab_test",
        service=row.service,
        subject=row.challenger_id,
        after={"test": row.id, "rollout": row.rollout_id, "champion": row.champion_id},
    )


def get_test(store: Store, test_id: str) -> AbTest:
    """The test with this id.

    Raises:
        AbTestNotFound: when there is no such test.
    """
    with store.read() as connection:
        return _read_test(connection, test_id)


def read_test_of_request(connection: Connection, request_key: str) -> AbTest | None:
    """The test that a request began; None where it has begun none."""
    query = sa.select(ab_test).where(ab_test.c.request_key == request_key)
    row = connection.execute(query).first()
    return None if row is None else build_test(row)


def list_tests(
    store: Store, *, service: str | None = None, running_only: bool = False
) -> tuple[AbTest, ...]:
    """The tests of a service or of all, newest first."""
    query = sa.select(ab_test).order_by(ab_test.c.requested_at.desc(), ab_test.c.id)
    if service is not None:
        query = query.where(ab_test.c.service == service)
    if running_only:
        query = query.where(ab_test.c.state == AbState.RUNNING)
    with store.read() as connection:
        return tuple(build_test(row) for row in connection.execute(query))


def list_recently_ended(store: Store, *, within: timedelta) -> tuple[AbTest, ...]:
    """The tests that got their verdict within this time by the store's clock, newest first."""
    with store.read() as connection:
        since = store_time(connection) - within
        query = sa.select(ab_test).where(ab_test.c.ended_at >= since)
        rows = connection.execute(query.order_by(ab_test.c.ended_at.desc(), ab_test.c.id))
        return tuple(build_test(row) for row in rows)


def running_test(connection: Connection, service: str) -> AbTest | None:
    """The test of a service that has no verdict, inside the caller's transaction."""
    query = sa.select(ab_test).where(
        ab_test.c.service == service, ab_test.c.state == AbState.RUNNING
    )
    row = connection.execute(query).first()
    return None if row is None else build_test(row)


def read_test_of_rollout(connection: Connection, rollout_id: str) -> AbTest | None:
    """The test that a rollout carries; None where it carries none."""
    return read_tests_of_rollouts(connection, (rollout_id,)).get(rollout_id)


def read_tests_of_rollouts(
    connection: Connection, rollout_ids: Collection[str]
) -> dict[str, AbTest]:
    """The tests that these rollouts carry, by rollout, inside the caller's transaction."""
    if not rollout_ids:
        return {}
    query = sa.select(ab_test).where(ab_test.c.rollout_id.in_(rollout_ids))
    return {row.rollout_id: build_test(row) for row in connection.execute(query)}


def lock_test_of(connection: Connection, rollout_id: str) -> AbTest | None:
    """As `read_test_of_rollout`, locked until the caller's transaction ends."""
    query = sa.select(ab_test).where(ab_test.c.rollout_id == rollout_id).with_for_update()
    row = connection.execute(query).first()
    return None if row is None else build_test(row)


def write_look(connection: Connection, look: AbLook) -> bool:
    """Insert a look inside the caller's transaction, which holds the test from then on.

    Returns:
        False where that bar has a look or the test has its verdict: nothing was written.
    """
    locked = sa.select(ab_test.c.verdict).where(ab_test.c.id == look.test_id).with_for_update()
    if connection.execute(locked).scalar_one() is not None:
        return False
    values = {name: getattr(look, name) for name in AbLook.__slots__}
    values |= {
        "missing": {arm: dict(counts) for arm, counts in look.missing.items()},
        "dealt": dict(look.dealt),
        "detail": dict(look.detail),
    }
    return bool(insert_new(connection, ab_look, [values]))


def list_looks(store: Store, test_id: str) -> tuple[AbLook, ...]:
    """The looks at a test, oldest bar first."""
    query = sa.select(ab_look).where(ab_look.c.test_id == test_id).order_by(ab_look.c.bar)
    with store.read() as connection:
        return tuple(build_look(row) for row in connection.execute(query))


def newest_look(store: Store, test_id: str) -> AbLook | None:
    """The look at the newest bar of a test; None before the first."""
    query = sa.select(ab_look).where(ab_look.c.test_id == test_id)
    with store.read() as connection:
        row = connection.execute(query.order_by(ab_look.c.bar.desc()).limit(1)).first()
    return None if row is None else build_look(row)


def conclude_test(
    connection: Connection, test_id: str, verdict: Verdict, text: str, why: audit.Why
) -> bool:
    """Write the verdict of a test inside the caller's transaction.

    Args:
        connection: The caller's transaction.
        test_id: The test.
        verdict: How it ended.
        text: The verdict as a sentence.
        why: Who or what ended it, and when.

    Returns:
        False where the test has a verdict already, which stays.
    """
    done = connection.execute(
        ab_test.update()
        .where(ab_test.c.id == test_id, ab_test.c.state == AbState.RUNNING)
        .values(state=AbState.CONCLUDED, verdict=verdict, verdict_text=text, ended_at=why.at)
    )
    if done.rowcount != 1:
        return False
    row = _read_test(connection, test_id)
    audit.record(
        connection,
        why,
        action="conclude_ab_test",
        service=row.service,
        subject=row.challenger_id,
        after={"test": row.id, "verdict": verdict, "text": text},
    )
    return True


def stop_test_of(connection: Connection, rollout_id: str, text: str, why: audit.Why) -> bool:
    """Conclude the test that a rollout carries as stopped, inside the caller's transaction.

    Returns:
        False where the rollout carries none, or one with a verdict.
    """
    row = read_test_of_rollout(connection, rollout_id)
    return row is not None and conclude_test(connection, row.id, Verdict.STOPPED, text, why)


def extend_test(
    connection: Connection,
    test_id: str,
    until_bar: datetime,
    why: audit.Why,
    *,
    net_s: float = 0.0,
) -> AbTest:
    """Let a running test last longer, inside the caller's transaction.

    Args:
        connection: The caller's transaction.
        test_id: The test.
        until_bar: The new last bar; it must be later than the present one.
        why: Author, reason and time.
        net_s: Seconds of wall time by which the rollout's deadline moves with it.

    Raises:
        RolloutError: when there is no such test, it has its verdict, or the bar is not later.
    """
    row = _read_test(connection, test_id)
    if net_s:
        _postpone_deadline(connection, row.rollout_id, net_s)
    if until_bar <= row.until_bar:
        raise RolloutError(
            f"test {test_id} lasts until {row.until_bar:%Y-%m-%d %H:%M} UTC; it can be extended, "
            f"not cut short to {until_bar:%Y-%m-%d %H:%M}: stop it instead"
        )
    done = connection.execute(
        ab_test.update()
        .where(ab_test.c.id == test_id, ab_test.c.state == AbState.RUNNING)
        .values(until_bar=until_bar)
    )
    if done.rowcount != 1:
        row = _read_test(connection, test_id)
        raise RolloutError(f"test {test_id} ended as {row.verdict}; start another one")
    audit.record(
        connection,
        why,
        action="extend_ab_test",
        service=row.service,
        subject=row.challenger_id,
        before={"test": row.id, "until_bar": row.until_bar.isoformat()},
        after={"test": row.id, "until_bar": until_bar.isoformat()},
    )
    return _read_test(connection, test_id)


def record_gaps(store: Store, rows: Sequence[ForecastGap]) -> int:
    """Insert why versions did not forecast bars; returns how many rows were new or changed.

    A replica in which a loaded version failed knows more than one that had not loaded it: its
    reason replaces `GapReason.NOT_LOADED`. Else the first row of a bar and version stays.
    """
    if not rows:
        return 0
    with store.write() as connection:
        insert = dialect_insert(connection, forecast_gap)
        others = {name: insert.excluded[name] for name in ("reason", "replica_id", "at")}
        upsert = insert.on_conflict_do_update(
            index_elements=[column.name for column in forecast_gap.primary_key],
            set_=others,
            where=sa.and_(
                forecast_gap.c.reason == GapReason.NOT_LOADED,
                insert.excluded.reason != GapReason.NOT_LOADED,
            ),
        ).execution_options(preserve_rowcount=True)
        values = [{name: getattr(row, name) for name in ForecastGap.__slots__} for row in rows]
        return sum(connection.execute(upsert.values(**row)).rowcount for row in values)


def list_gaps(
    store: Store, service: str, *, since: datetime, until: datetime
) -> tuple[ForecastGap, ...]:
    """The gaps of bars opened in ``[since, until)``, oldest first."""
    query = (
        sa.select(forecast_gap)
        .where(forecast_gap.c.service == service)
        .where(forecast_gap.c.bar >= since, forecast_gap.c.bar < until)
        .order_by(forecast_gap.c.bar, forecast_gap.c.model_id)
    )
    with store.read() as connection:
        return tuple(_build_gap(row) for row in connection.execute(query))


def _postpone_deadline(connection: Connection, rollout_id: str, seconds: float) -> None:
    """Move the deadline of a test's step, also of one that has not begun.

    The rollout is locked before the test, as in every other transaction that writes both.
    """
    query = sa.select(rollout).where(rollout.c.id == rollout_id).with_for_update()
    row = connection.execute(query).one()
    values: dict[str, Any] = {"plan": {**row.plan, "hold_s": row.plan["hold_s"] + seconds}}
    if row.phase == "step":
        values["deadline"] = row.deadline + timedelta(seconds=seconds)
    connection.execute(rollout.update().where(rollout.c.id == rollout_id).values(**values))


def _read_test(connection: Connection, test_id: str) -> AbTest:
    row = connection.execute(sa.select(ab_test).where(ab_test.c.id == test_id)).first()
    if row is None:
        raise AbTestNotFound(f"no A/B test {test_id!r}; list them with list_tests()")
    return build_test(row)


def build_test(row: sa.Row[Any]) -> AbTest:
    # A newer release may have added columns.
    values = {name: getattr(row, name) for name in AbTest.__slots__}
    verdict = None if row.verdict is None else Verdict(row.verdict)
    return AbTest(**values | {"state": AbState(row.state), "verdict": verdict})


def build_look(row: sa.Row[Any]) -> AbLook:
    values = {name: getattr(row, name) for name in AbLook.__slots__}
    return AbLook(**values | {"word": None if row.word is None else Verdict(row.word)})


def _build_gap(row: sa.Row[Any]) -> ForecastGap:
    values = {name: getattr(row, name) for name in ForecastGap.__slots__}
    return ForecastGap(**values | {"reason": GapReason(row.reason)})
