"""The life of an A/B test: planned, begun, looked at, extended, stopped.

A test begins with the rollout that carries it, in one transaction, at the next bar of the market's
own clock. It ends by the verdict of a look, by a person, or with its rollout.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from mlops.ab_testing.common_past import (
    BundleOpener,
    fitted_until,
    read_common_past,
    read_kept_records,
)
from mlops.ab_testing.evaluation import look_at_test
from mlops.ab_testing.loss_sequence import count_first_pairs
from mlops.ab_testing.loss_variance import Record, count_pairs_of_test_blocks
from mlops.ab_testing.pair_reading import Arms
from mlops.ab_testing.preflight import (
    Preflight,
    bar_after,
    hours_until_due,
    next_open,
    plan_test,
    span_of,
)
from mlops.ab_testing.requests import AbTestRequest, OnShortPlan, Sides, assign_sides
from mlops.data.calendar import Calendar
from mlops.data.market import Market
from mlops.data.market_clock import wall_seconds
from mlops.data.recent_bars import KnownBars, RecentBars
from mlops.errors import AbTestMalformed, AbTestRefused, RolloutError
from mlops.registry.markets import read_market
from mlops.rollout.plan import ab_test_plan
from mlops.rollout.request import request_test
from mlops.rollout.wishes import list_waiting_tests
from mlops.service import Service
from mlops.settings import FileClock, Settings
from mlops.store import ModelVersion, Rollout, Route, Store, Why, get_route, get_version
from mlops.store.ab_tests import (
    AbLook,
    AbTest,
    extend_test,
    get_test,
    list_tests,
    new_test_id,
    newest_look,
    read_test_of_request,
)
from mlops.store.requests import RequestKey
from mlops.store.rollouts import request_abort
from mlops.store.schema import AbState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """A test that has begun, and its preflight."""

    test: AbTest
    plan: Preflight


@dataclass(frozen=True, slots=True)
class Begun:
    """The wish of a training for a test, and the test; or why it did not begin."""

    wish: Rollout
    started: Started | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """A test after a look at it.

    Attributes:
        look: The newest look; None where no outcome is due yet.
        ended: Whether this look wrote the verdict.
        trouble: Why the test could not be looked at; empty where it was.
    """

    test: AbTest
    look: AbLook | None
    ended: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    sides: Sides
    arms: Arms
    known: KnownBars
    plan: Preflight
    record: Record | None


@dataclass(frozen=True)
class AbTesting:
    """Begins, looks at and ends the A/B tests of a store.

    Args:
        bars: The bars of every service, by whose clock a test begins.
        open_bundle: Opens the bundle of a version, for its record of past forecasts.
    """

    config: Settings
    store: Store
    bars: RecentBars
    open_bundle: BundleOpener

    def plan(self, request: AbTestRequest) -> Preflight:
        """The preflight of a test, which is not begun.

        Raises:
            AbTestRefused: when such a test may not begin.
            VersionNotFound: when there is no such version.
        """
        return self._plan(request).plan

    def start(self, request: AbTestRequest, why: Why, *, now: datetime | None = None) -> Started:
        """Begin a test: its row and that of its rollout are one transaction.

        Args:
            now: Replaces the store's clock in rehearsals.

        Raises:
            AbTestRefused: when the test may not begin as things stand.
            RolloutRefused: when the challenger may not go live, or another rollout or test holds
                the service.
            VersionNotFound: when there is no such version.
        """
        known = self._started_before(request)
        if known is not None:
            return known
        planned = self._plan(request)
        market = planned.known.market
        plan = ab_test_plan(
            planned.sides.split_bp,
            duration_s=_wall_seconds(market, planned.plan.duration_hours),
            load_s=self.config.health_check_timeout,
            **self._bake(),
        )
        row = _make_test(request, planned, self.config, why)
        test = request_test(self.store, row, plan, why, end_test=request.end_test, now=now)
        return Started(test, planned.plan)

    def look(
        self, test_id: str, *, now: datetime | None = None, at: datetime | None = None
    ) -> Looked:
        """Look at a test; the same bar again returns the same look.

        Args:
            now: Market time, by default that of the service.
            at: Replaces the store's clock in rehearsals.

        Raises:
            RolloutError: when there is no such test, or no bars of its service are kept here.
        """
        test = get_test(self.store, test_id)
        if test.state is AbState.CONCLUDED:
            return Looked(test, newest_look(self.store, test_id))
        service = Service.parse(test.service)
        moment = self._load(service).now if now is None else now
        arms = self._arms_of_test(test, read_market(self.store, service).calendar)
        fee_bps = self.config.fee_for(service.symbol)
        look = look_at_test(self.store, test, arms, now=moment, fee_bps=fee_bps, at=at)
        after = get_test(self.store, test_id)
        ended = after.state is AbState.CONCLUDED and look is not None and look.word is not None
        return Looked(after, look, ended=ended)

    def look_at_running(self, times: Mapping[str, datetime] | None = None) -> tuple[Looked, ...]:
        """Look at every running test; an error in one does not stop the others.

        Args:
            times: Market time by service; a test of another service is looked at by its clock.
        """
        looks = []
        for test in list_tests(self.store, running_only=True):
            try:
                looks.append(self.look(test.id, now=(times or {}).get(test.service)))
            except Exception as error:
                # Unreadable bars of one service must not leave other tests without a look.
                log.exception(
                    "service=%s test %s was not looked at", test.service, test.id,
                    extra={"service": test.service},
                )  # fmt: skip
                looks.append(Looked(test, None, trouble=f"{type(error).__name__}: {error}"))
        return tuple(looks)

    def start_waiting(self) -> tuple[Begun, ...]:
        """Begin the tests that trainings asked for, where their service is free.

        A plan that cannot decide is extended. An error in one does not stop the others; it is
        tried again with the next call.
        """
        return tuple(self._start_wish(wish) for wish in list_waiting_tests(self.store))

    def _start_wish(self, wish: Rollout) -> Begun:
        why = Why(datetime.now(UTC), actor=wish.requested_by, reason=wish.requested_why)
        try:
            route = get_route(self.store, wish.service)
            assert route is not None, "a version of the service has been registered"
            request = AbTestRequest(
                model_a_id=route.champion,
                model_b_id=wish.to_version,
                on_short_plan=OnShortPlan.EXTEND,
                request_key=wish.id,
                **wish.plan["test"],
            )
            return Begun(wish, self.start(request, why))
        except Exception as error:
            # Bars or a bundle of one service must not keep the tests of others waiting.
            log.exception(
                "service=%s the A/B test of %s did not begin", wish.service, wish.to_version,
                extra={"service": wish.service, "model_id": wish.to_version},
            )  # fmt: skip
            return Begun(wish, None, f"{type(error).__name__}: {error}")

    def stop(self, test_id: str, why: Why) -> AbTest:
        """End a test as stopped; its rollout takes the challenger off the route.

        Raises:
            RolloutError: when there is no such test, or it has ended.
        """
        test = get_test(self.store, test_id)
        if test.state is AbState.CONCLUDED:
            raise RolloutError(f"test {test_id} ended as {test.verdict}: {test.verdict_text}")
        request_abort(self.store, test.rollout_id, why)
        return get_test(self.store, test_id)

    def extend(self, test_id: str, hours: float, why: Why) -> AbTest:
        """Let a test last longer by so many hours of trading; that cannot be undone.

        Raises:
            AbTestRefused: when the hours hold no bar, or a replay would begin again before the
                test is over.
            RolloutError: when there is no such test, or it has ended.
        """
        test = get_test(self.store, test_id)
        service = Service.parse(test.service)
        bars = round(hours * timedelta(hours=1) / service.timeframe.step)
        if bars < 1:
            raise AbTestMalformed(
                f"hours={hours:g} hold no bar of {service.timeframe}; extend by a longer time"
            )
        known = self._load(service)
        arms = self._arms_of_test(test, known.market.calendar)
        until_bar = bar_after(arms, test.until_bar, bars)
        _refuse_second_pass(known, test.since_bar, hours_until_due(arms, test.since_bar, until_bar))
        net_s = 2.0 * _wall_seconds(known.market, (until_bar - test.until_bar) / timedelta(hours=1))
        with self.store.write() as connection:
            return extend_test(connection, test_id, until_bar, why, net_s=net_s)

    def count_first_pairs(self, test: AbTest) -> int:
        """Pairs before which a test has no verdict on the losses."""
        service = Service.parse(test.service)
        first = count_first_pairs(service.horizon)
        if test.record is not None:
            return first
        arms = self._arms_of_test(test, read_market(self.store, service).calendar)
        blocks = count_pairs_of_test_blocks(
            horizon=service.horizon, bars_per_week=arms.bars_per_week
        )
        return max(first, blocks)

    def tests(self, service: str | None = None) -> tuple[tuple[AbTest, AbLook | None], ...]:
        """The tests of a service or of all, newest first, each with its newest look."""
        return tuple(
            (test, newest_look(self.store, test.id))
            for test in list_tests(self.store, service=service)
        )

    def _started_before(self, request: AbTestRequest) -> Started | None:
        """The test that this very request has begun already."""
        if request.request_key is None:
            return None
        with self.store.read() as connection:
            test = read_test_of_request(connection, request.request_key)
        if test is None:
            return None
        if request.request_digest is not None:
            key = RequestKey(request.request_key, request.request_digest)
            key.check_repeat(test.id, test.request_digest)
        if {test.champion_id, test.challenger_id} != {request.model_a_id, request.model_b_id}:
            raise AbTestRefused(
                f"request_key={request.request_key!r} began {test.id}, of {test.champion_id} and "
                f"{test.challenger_id}; give another request a key of its own"
            )
        service = Service.parse(test.service)
        arms = self._arms_of_test(test, read_market(self.store, service).calendar)
        hours = hours_until_due(arms, test.since_bar, test.until_bar)
        route, sides = self._assign(request, champion=test.champion_id)
        plan, _ = self._preflight(
            arms, route, sides, since_bar=test.since_bar, hours=hours, alpha=test.alpha
        )
        return Started(test, plan)

    def _plan(self, request: AbTestRequest) -> _Planned:
        request.check()
        route, sides = self._assign(request)
        service = Service.parse(sides.champion.service)
        known = self._load(service)
        arms = _make_arms(sides.champion, sides.challenger, known.market.calendar)
        since_bar = next_open(service, known)
        alpha = self.config.ab_test_significance_threshold
        hours = request.duration_hours
        plan, record = self._preflight(
            arms, route, sides, since_bar=since_bar, hours=hours, alpha=alpha
        )
        if not plan.can_decide and request.on_short_plan is OnShortPlan.REFUSE:
            raise AbTestRefused(
                f"{plan.text} Give it duration_hours={plan.needed_hours:.0f} or more, or "
                "on_short_plan='accept' or 'extend'"
            )
        if not plan.can_decide and request.on_short_plan is OnShortPlan.EXTEND:
            hours = plan.needed_hours
            plan, record = self._preflight(
                arms, route, sides, since_bar=since_bar, hours=hours, alpha=alpha
            )
        _refuse_second_pass(known, since_bar, hours)
        return _Planned(sides=sides, arms=arms, known=known, plan=plan, record=record)

    def _assign(
        self, request: AbTestRequest, *, champion: str | None = None
    ) -> tuple[Route, Sides]:
        """The route and who is who; ``champion`` replaces the route's, which may have changed."""
        model_a = get_version(self.store, request.model_a_id)
        model_b = get_version(self.store, request.model_b_id)
        route = get_route(self.store, model_a.service)
        if route is not None and champion is not None:
            route = replace(route, champion=champion)
        sides = assign_sides(request, model_a, model_b, route)
        assert route is not None, "assign_sides has refused a service that has not begun"
        return route, sides

    def _preflight(
        self,
        arms: Arms,
        route: Route,
        sides: Sides,
        *,
        since_bar: datetime,
        hours: float,
        alpha: float,
    ) -> tuple[Preflight, Record | None]:
        champion, challenger = read_kept_records(
            self.open_bundle, route, sides.champion, sides.challenger
        )
        past = read_common_past(
            self.store, arms, champion=champion, challenger=challenger, before=since_bar
        )
        return plan_test(arms, past, since_bar=since_bar, hours=hours, alpha=alpha)

    def _arms_of_test(self, test: AbTest, calendar: Calendar) -> Arms:
        champion = get_version(self.store, test.champion_id)
        return _make_arms(champion, get_version(self.store, test.challenger_id), calendar)

    def _bake(self) -> dict[str, float]:
        """How long a winner is watched after its promotion, where the settings say so."""
        bake_s = self.config.rollout_bake_seconds
        return {} if bake_s is None else {"bake_s": bake_s}

    def _load(self, service: Service) -> KnownBars:
        known = self.bars.load(service)
        if known is None:
            raise AbTestRefused(self.bars.describe_missing(service))
        return known


def _make_arms(champion: ModelVersion, challenger: ModelVersion, calendar: Calendar) -> Arms:
    fitted = [at for at in map(fitted_until, (champion, challenger)) if at is not None]
    return Arms(
        service=Service.parse(champion.service),
        calendar=calendar,
        champion_id=champion.model_id,
        challenger_id=challenger.model_id,
        fitted_until=max(fitted, default=None),
    )


def _make_test(request: AbTestRequest, planned: _Planned, config: Settings, why: Why) -> AbTest:
    """The row of a test that begins; its rollout is named by the transaction that writes both."""
    plan, sides = planned.plan, planned.sides
    span = span_of(
        planned.arms,
        plan.since_bar,
        hours=plan.duration_hours,
        min_hours=config.ab_test_min_duration_hours,
    )
    return AbTest(
        id=new_test_id(),
        service=planned.arms.service.key,
        champion_id=sides.champion.model_id,
        challenger_id=sides.challenger.model_id,
        champion_is=sides.champion_is,
        name=request.name,
        split_bp=sides.split_bp,
        alpha=config.ab_test_significance_threshold,
        since_bar=span.since_bar,
        min_until_bar=span.min_until_bar,
        until_bar=span.until_bar,
        record=None if planned.record is None else planned.record.to_dict(),
        promote=request.promote,
        rollout_id="",
        requested_by=why.actor,
        requested_why=why.reason,
        requested_at=why.at,
        request_key=request.request_key,
        request_digest=request.request_digest,
    )


def _refuse_second_pass(known: KnownBars, since_bar: datetime, hours: float) -> None:
    """Refuse a test that would not be over when a replay of its bars begins again."""
    if known.market.clock is not FileClock.REPLAY:
        return
    last_close = known.last_close or known.now
    if since_bar + timedelta(hours=hours) > last_close:
        left = max((last_close - since_bar) / timedelta(hours=1), 0.0)
        raise AbTestRefused(
            f"the replay of {known.label} begins again in {left:,.0f} market hours, before a test "
            f"of {hours:,.0f} hours is over; ask for a shorter one, or wait for the next pass"
        )


def _wall_seconds(market: Market, hours: float) -> float:
    span = timedelta(hours=hours)
    seconds = wall_seconds(market, span)
    # A file whose clock stands at its last bar goes on when bars are appended, at any pace.
    return span.total_seconds() if seconds == float("inf") else seconds
