"""Rows of a service with a champion and a challenger, and replicas that are only rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops.rollout.controller import Controller
from mlops.rollout.plan import RolloutPlan, Strategy, ab_test_plan, plan_for
from mlops.rollout.request import request_rollout, request_test
from mlops.rollout.routing import FAILED, READY, may_drop, next_to_load
from mlops.store import (
    AbLook,
    AbTest,
    ModelVersion,
    Rollout,
    Route,
    Status,
    Store,
    Verdict,
    Why,
    get_rollout,
    get_route,
    get_test,
)
from mlops.store.ab_tests import conclude_test, new_test_id, write_look
from mlops.store.replicas import (
    HeldModel,
    LoadCause,
    Replica,
    ReplicaState,
    acknowledge,
    remove_replica,
)
from mlops.store.request_counts import (
    Source,
    Tally,
    champion_scope,
    dealt_scope,
    record_tallies,
)
from mlops.store.routes import begin_route, change_route
from mlops.store.schema import replica
from mlops.store.versions import insert_version

SERVICE = "sample.btc-usd.1h.volatility.24"
NOW = datetime(2025, 1, 1, tzinfo=UTC)
BASELINE, CHAMPION, CHALLENGER = "baseline", "champion", "challenger"
ASKED = Why(NOW, actor="anna", reason="it is better")


def make_version(model_id: str, number: int, **changes: Any) -> ModelVersion:
    """A version of the one service; every field can be given."""
    values: dict[str, Any] = {
        "model_id": model_id,
        "service": SERVICE,
        "mlflow_version": number,
        "run_id": "run",
        "model_type": "linear",
        "symbol": "BTC/USD",
        "status": Status.DEPLOYED,
        "digest": "d" * 64,
        "bundle_uri": "file:///bundle",
        "watermark": "w" * 64,
        "trained_until": NOW,
        "recipe_digest": "r" * 64,
        "claims_only": False,
        "code_version": "0.1.0",
        "created_at": NOW,
        "report": {"passed": True},
    }
    return ModelVersion(**(values | changes))


def add_version(store: Store, model_id: str, number: int, **changes: Any) -> ModelVersion:
    """Put a version into the store."""
    row = make_version(model_id, number, **changes)
    with store.write() as connection:
        insert_version(connection, row, Why(NOW))
    return row


def begin_service(store: Store, service: str = SERVICE, suffix: str = "") -> Route:
    """A service on its champion, with a challenger that passed its gates."""
    baseline, champion, challenger = (name + suffix for name in (BASELINE, CHAMPION, CHALLENGER))
    add_version(store, baseline, 1, service=service, report=None)
    add_version(store, champion, 2, service=service)
    add_version(store, challenger, 3, service=service, status=Status.CHALLENGER)
    with store.write() as connection:
        begun = begin_route(connection, service, baseline, Why(NOW))
        after = replace(begun, champion=champion)
        return change_route(connection, begun, after, "promote", Why(NOW))


def begin_rollouts(
    store: Store,
    number: int,
    replicas: Sequence[str] = ("r0",),
    strategy: Strategy = Strategy.CANARY,
) -> list[Rollout]:
    """So many services, each with a rollout of its challenger that all replicas have loaded.

    None of them has enough evidence for its gate, unless it carries an A/B test.
    """
    begun, generations, models = list[Rollout](), dict[str, int](), dict[str, HeldModel]()
    for n in range(number):
        service, suffix = f"sample.s{n}-usd.1h.volatility.24", f"-{n}"
        before = begin_service(store, service, suffix)
        if strategy is Strategy.AB_TEST:
            arms = {"champion_id": CHAMPION + suffix, "challenger_id": CHALLENGER + suffix}
            asked = get_rollout(store, ask_test(store, **arms).rollout_id)
            record_tallies(store, {service: [tally(asked.id)]})
        else:
            asked = request_rollout(store, CHALLENGER + suffix, plan_for(strategy), ASKED)
            record_tallies(store, {service: [tally(asked.id, challenger_trials=5)]})
        begun.append(asked)
        # The one that the first arrow, to loading, will write.
        generations[service] = before.generation + 1
        for name in (BASELINE, CHAMPION, CHALLENGER):
            models[name + suffix] = HeldModel(name + suffix, READY)
    for name in replicas:
        said = Replica(
            id=name,
            incarnation=f"{name}-0",
            address="127.0.0.1:1",
            state=ReplicaState.READY,
            generations=generations,
            models=models,
        )
        acknowledge(store, said, seconds=600.0)
    return begun


def ask(
    store: Store, strategy: Strategy | RolloutPlan = Strategy.CANARY, **options: Any
) -> Rollout:
    """Ask for a rollout of the challenger."""
    plan = strategy if isinstance(strategy, RolloutPlan) else plan_for(strategy)
    return request_rollout(store, CHALLENGER, plan, ASKED, **options)


HOUR = timedelta(hours=1)
SPLIT_BP = 5000


def make_test(**changes: Any) -> AbTest:
    """A test of the challenger against the champion, over 48 bars; every field can be given."""
    values: dict[str, Any] = {
        "id": new_test_id(),
        "service": SERVICE,
        "champion_id": CHAMPION,
        "challenger_id": CHALLENGER,
        "champion_is": "a",
        "name": "spring",
        "split_bp": SPLIT_BP,
        "alpha": 0.05,
        "since_bar": NOW,
        "min_until_bar": NOW + 24 * HOUR,
        "until_bar": NOW + 48 * HOUR,
        "record": None,
        "promote": True,
        "rollout_id": "",
        "requested_by": "anna",
        "requested_why": "it is better",
        "requested_at": NOW,
    }
    return AbTest(**(values | changes))


def ask_test(
    store: Store, *, now: datetime | None = None, end_test: bool = False, **changes: Any
) -> AbTest:
    """Ask for a test of the challenger."""
    test = make_test(**changes)
    plan = ab_test_plan(test.split_bp, duration_s=48 * 3600.0)
    return request_test(store, test, plan, ASKED, end_test=end_test, now=now)


def make_look(test: AbTest, bar: datetime = NOW, **changes: Any) -> AbLook:
    """A look at a test that found nothing; every field can be given."""
    values: dict[str, Any] = {
        "test_id": test.id,
        "bar": bar,
        "at": NOW,
        "pairs": 120,
        "mean": 0.01,
        "variance": 1.5,
        "variance_source": "hac",
        "standard_error": 0.1,
        "z": 3.0,
        "low": -0.29,
        "high": 0.31,
        "relative_low": None,
        "relative_high": None,
        "p": 1.0,
        "holes": 0,
        "missing": {"champion": {}, "challenger": {"not_loaded": 1}},
        "dealt": {"champion": 10, "challenger": 9},
        "word": None,
        "detail": {"hits": 0.5},
        "digest": "d" * 64,
    }
    return AbLook(**(values | changes))


def find_verdict(store: Store, test: AbTest, verdict: Verdict, bar: datetime = NOW) -> bool:
    """Look at a test and write its verdict, in one transaction; False where it has one."""
    with store.write() as connection:
        if not write_look(connection, make_look(test, bar, word=verdict)):
            return False
        return conclude_test(connection, test.id, verdict, f"it is {verdict}", Why(NOW, "monitor"))


def verdict_of(store: Store, test: AbTest) -> Verdict | None:
    """The stored verdict of a test."""
    return get_test(store, test.id).verdict


def route_of(store: Store) -> Route:
    """The route of the one service."""
    found = get_route(store, SERVICE)
    assert found is not None
    return found


@dataclass
class RowReplica:
    """A replica that follows the store when told to, by the product's own rules.

    It cannot load what ``unloadable`` names, which is broken, nor what it ``lacks`` room for.
    """

    store: Store
    name: str = "r0"
    life: int = 0
    seen: Route | None = None
    states: dict[str, str] = field(default_factory=dict)
    unloadable: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    lease_s: float = 600.0

    @property
    def incarnation(self) -> str:
        return f"{self.name}-{self.life}"

    def follow(self) -> None:
        """Look, load, let go and acknowledge, until nothing is left to do."""
        self.look()
        self.forget_failures()
        while self.load():
            pass
        self.drop()
        self.acknowledge()

    def look(self) -> None:
        self.seen = get_route(self.store, SERVICE)

    def load(self) -> bool:
        """Load the next model, if any."""
        route = self.seen
        model_id = None if route is None else next_to_load(route, self.name, self.states)
        if model_id is None:
            return False
        failed = model_id in self.unloadable | self.lacks
        self.states[model_id] = FAILED if failed else READY
        return True

    def forget_failures(self) -> None:
        """Try again what failed by no fault of the version."""
        for model_id, state in tuple(self.states.items()):
            if state == FAILED and model_id not in self.unloadable:
                del self.states[model_id]

    def drop(self) -> None:
        for model_id in tuple(self.states):
            if self.seen and may_drop(self.seen, self.name, model_id, self.states):
                del self.states[model_id]

    def acknowledge(self, state: ReplicaState = ReplicaState.READY) -> None:
        models = [self._describe(name, state) for name, state in self.states.items()]
        said = Replica(
            id=self.name,
            incarnation=self.incarnation,
            address="127.0.0.1:1",
            state=state,
            generations={SERVICE: self.seen.generation} if self.seen else {},
            models={held.model_id: held for held in models},
        )
        self._outlive_last_life()
        acknowledge(self.store, said, seconds=self.lease_s)

    def _describe(self, model_id: str, state: str) -> HeldModel:
        if state != FAILED:
            return HeldModel(model_id, state)
        cause = LoadCause.VERSION if model_id in self.unloadable else LoadCause.REPLICA
        return HeldModel(model_id, state, error="broken", cause=cause)

    def _outlive_last_life(self) -> None:
        """The store takes the word of a new life once the lease of the last one has ended."""
        with self.store.write() as connection:
            connection.execute(
                replica.update()
                .where(replica.c.id == self.name, replica.c.incarnation != self.incarnation)
                .values(lease_until=0.0)
            )

    def crash(self) -> None:
        """Die and come back empty; the last acknowledgement stands until its lease ends."""
        self.life += 1
        self.seen, self.states = None, {}

    def leave(self) -> None:
        remove_replica(self.store, self.name, self.incarnation)

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(name for name, state in self.states.items() if state == READY)


def follow_all(replicas: Iterable[RowReplica]) -> None:
    for one in replicas:
        one.follow()


def tally(scope: str, **counts: Any) -> Tally:
    """What a replica counted; the challenger answered 1,000 bars unless told otherwise."""
    usual: dict[str, Any] = {
        "step": 0,
        "source": Source.REPLAY,
        "replica_id": "r0",
        "incarnation": "r0-0",
        "champion_trials": 1000,
        "challenger_trials": 1000,
    }
    return Tally(scope, **(usual | counts))


def count(store: Store, rollout: Rollout, **counts: Any) -> None:
    """Hand in what a replica counted for a rollout."""
    record_tallies(store, {SERVICE: [tally(rollout.id, **counts)]})


OWN_INPUTS = 23


def count_champion(
    store: Store, *, trials: int, faults: int = 0, own_faults: int | None = None
) -> None:
    """Hand in what a replica counted of the champion.

    Unless told otherwise, a champion that fails on requests fails on an input of our own too.
    """
    scope = champion_scope(route_of(store).champion)
    live = {"champion_trials": trials, "champion_faults": faults, "challenger_trials": 0}
    failed = min(faults, 1) if own_faults is None else own_faults
    own = {"champion_trials": OWN_INPUTS, "champion_faults": failed, "challenger_trials": 0}
    rows = [tally(scope, source=Source.LIVE, **live), tally(scope, source=Source.REPLAY, **own)]
    record_tallies(store, {SERVICE: rows})


def count_short(store: Store, rollout: Rollout, *, dealt: int, short: int) -> None:
    """Hand in how many keys were dealt to the challenger, and how many sent too few bars."""
    counts = {"champion_trials": 0, "challenger_trials": dealt, "challenger_faults": short}
    detail = {"too_few_bars": short, "offered": 35, "needed": 169}
    row = tally(dealt_scope(rollout.id), source=Source.LIVE, detail=detail, **counts)
    record_tallies(store, {SERVICE: [row]})


class Clock:
    """A time that moves when told to."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


def carry(
    controller: Controller, replicas: Iterable[RowReplica], *, rounds: int = 12
) -> Mapping[str, str]:
    """Tick and follow in turn until nothing moves; returns what moved, and why."""
    moved: dict[str, str] = {}
    for _ in range(rounds):
        follow_all(replicas)
        new = controller.tick()
        moved |= {one.what: one.reason for one in new}
        if not new:
            break
    return moved
