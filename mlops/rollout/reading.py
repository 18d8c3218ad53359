"""What the controller decides by: all rollouts, routes, replicas and evidence, read together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mlops.alerts.conditions import list_told_of_requests
from mlops.rollout.analysis import (
    ChampionTrials,
    count_champion_trials,
    count_own_trials,
    count_short_requests,
    gather_evidence,
)
from mlops.rollout.fallback import WINDOW_S, champion_failing
from mlops.rollout.plan import RolloutPlan, Strategy
from mlops.rollout.snapshot import Snapshot
from mlops.rollout.wishes import is_asking
from mlops.store import AbTest, Phase, Replica, Rollout, Route, Status
from mlops.store.ab_tests import read_tests_of_rollouts
from mlops.store.engine import Connection
from mlops.store.replicas import ReplicaState, live_replicas
from mlops.store.request_counts import (
    Tally,
    champion_scope,
    dealt_scope,
    read_tallies,
    read_tallies_in_use,
)
from mlops.store.rollouts import open_rollouts, status_of, waiting_rollouts
from mlops.store.routes import read_routes


@dataclass(frozen=True, slots=True)
class Reading:
    """The store at one moment, or the part of it that is about one service.

    ``busy`` are the services with an open rollout, ``told_of_requests`` those with a lasting alert
    on a champion that fails on requests alone. ``waiting`` and ``routes`` are by service,
    ``tallies`` by scope, and ``promoted_tallies``, of new champions since their promotion, by
    rollout, as are ``tests``.
    """

    now: datetime
    open: tuple[Rollout, ...]
    busy: frozenset[str]
    waiting: Mapping[str, Rollout]
    routes: Mapping[str, Route]
    replicas: tuple[Replica, ...]
    statuses: Mapping[str, Status]
    tallies: Mapping[str, tuple[Tally, ...]]
    promoted_tallies: Mapping[str, tuple[Tally, ...]]
    told_of_requests: frozenset[str]
    tests: Mapping[str, AbTest]

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        """Open rollouts, oldest first, and then those that wait; all of a service with a route."""
        rows = (*self.open, *self.waiting.values())
        return tuple(row for row in rows if row.service in self.routes)

    def snapshot_of(self, row: Rollout) -> Snapshot:
        """What `decide` needs to know of an open rollout."""
        route, failing = self.routes[row.service], None
        if row.phase is not Phase.PROMOTED:
            trials = self.champion_trials(route)
            failing = champion_failing(route, self.serving_replicas, trials)
        test, wish = self.tests.get(row.id), self.waiting.get(row.service)
        return Snapshot(
            rollout=row,
            plan=RolloutPlan.from_dict(row.plan),
            route=route,
            replicas=self.replicas,
            evidence=gather_evidence(
                self.tallies.get(row.id, ()), self.promoted_tallies.get(row.id, ())
            ),
            statuses=self.statuses,
            champion_failing=failing,
            short_requests=count_short_requests(self.tallies.get(dealt_scope(row.id), ())),
            verdict_of_test=None if test is None else test.verdict,
            verdict_text=(test and test.verdict_text) or "",
            promotes_winner=test is not None and test.promote,
            asked_by=wish if wish and is_asking(wish, route, self.statuses) else None,
        )

    @property
    def serving_replicas(self) -> tuple[Replica, ...]:
        """The live replicas that stay, whichever generation of a route they serve by."""
        return tuple(one for one in self.replicas if one.state is not ReplicaState.DRAINING)

    def champion_trials(self, route: Route) -> ChampionTrials:
        """The champion's trials and its newest check in the last `WINDOW_S` seconds."""
        tallies = self.tallies.get(champion_scope(route.champion), ())
        return ChampionTrials(count_champion_trials(tallies), count_own_trials(tallies))


def read_rollouts(connection: Connection, now: datetime, service: str | None = None) -> Reading:
    """Read what rollouts and fallbacks are decided by, in the caller's transaction.

    It takes a number of statements that does not grow, and one more for each promoted rollout.

    Args:
        connection: The caller's transaction.
        now: The time of the store, or of the rehearsal.
        service: Only what is about this service; None for all.
    """
    routes = {
        route.service: route
        for route in read_routes(connection)
        if service is None or route.service == service
    }
    # A service that is retired has no route here, and its rollouts rest.
    opened = tuple(row for row in open_rollouts(connection, service) if row.service in routes)
    waiting = [row for row in waiting_rollouts(connection, service) if row.service in routes]
    versions = {row.to_version for row in (*opened, *waiting)}
    for route in routes.values():
        versions |= {route.champion, route.previous_champion or route.baseline}
    return Reading(
        now=now,
        open=opened,
        busy=frozenset(row.service for row in opened),
        waiting={row.service: row for row in waiting},
        routes=routes,
        replicas=live_replicas(connection),
        statuses=status_of(connection, versions),
        tallies=read_tallies_in_use(connection, service, newer_than_s=WINDOW_S),
        promoted_tallies={
            row.id: _read_since_promotion(connection, row, now)
            for row in opened
            if row.phase is Phase.PROMOTED
        },
        told_of_requests=list_told_of_requests(connection),
        tests=read_tests_of_rollouts(
            connection, [row.id for row in opened if row.strategy == Strategy.AB_TEST]
        ),
    )


def _read_since_promotion(connection: Connection, row: Rollout, now: datetime) -> tuple[Tally, ...]:
    """Rows from an earlier time as champion were last written before this promotion."""
    age = (now - row.since).total_seconds()
    scope = champion_scope(row.to_version)
    return read_tallies(connection, row.service, scope, newer_than_s=age)
