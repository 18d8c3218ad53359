"""What is counted of every request, and what moves in every situation of a champion.

The first half sends the product's dispatcher every request there is of a small world: four
versions, each of which computes, fails, times out, needs more bars or is not there. The second half
puts every evidence on a champion into a real store, and lets the controller tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from mlops.alerts.conditions import REQUESTS
from mlops.errors import ModelFault, NotLoaded, NotReady, RequestRefused
from mlops.models.windows import Window
from mlops.rollout.controller import Controller
from mlops.rollout.fallback import WINDOW_S
from mlops.serving.dispatcher import Answer, Dispatcher
from mlops.serving.request_counters import RequestCounters
from mlops.serving.route_view import RouteState, RouteView
from mlops.store import Route, Status, Store, Why
from mlops.store.alerts import list_alerts
from mlops.store.request_counts import Source, Tally
from mlops.store.routes import change_route
from mlops.store.schema import evidence
from mlops.store.sql import db_now
from mlops.store.versions import change_status

from .rows import CHAMPION, NOW, SERVICE, RowReplica, count_champion, route_of

# Requests -----------------------------------------------------------------------------------


class Does(StrEnum):
    """What becomes of a request at one version."""

    COMPUTES = "computes"
    FAILS = "fails"
    TIMES_OUT = "times out"
    NEEDS_MORE = "needs more bars"
    NEEDS_TIMES = "reads the clock, and the bars have no times"
    ABSENT = "is not ready"


ALONE = Route(SERVICE, 1, "A", "C", "D", NOW, NOW)
ROUTES = (ALONE, replace(ALONE, challenger="B", salt="rollout", weight_bp=10_000))
BARS = 3
WINDOW = Window(
    np.ones((BARS, 5)),
    np.arange(BARS).astype("datetime64[h]").astype("datetime64[ns]"),
    np.zeros(BARS, bool),
    timed=False,
)


class Sent(NamedTuple):
    """One request, what each version did, and what was counted of it."""

    route: Route
    does: Mapping[str, Does]
    answer: Answer | Exception
    tallies: tuple[Tally, ...]
    faults: Mapping[str, int]

    @property
    def order(self) -> tuple[str, ...]:
        """The versions that are there, in the order of asking."""
        names = (self.route.challenger, "A", "C", "D")
        return tuple(one for one in names if one and self.does[one] is not Does.ABSENT)

    @property
    def able(self) -> tuple[str, ...]:
        """Those of them that have what they need."""
        lacking = (Does.NEEDS_MORE, Does.NEEDS_TIMES)
        return tuple(one for one in self.order if self.does[one] not in lacking)

    @property
    def computed_by(self) -> str | None:
        return next((one for one in self.able if self.does[one] is Does.COMPUTES), None)

    def counted(self, scope: str) -> tuple[int, int, int, int]:
        """Trials and faults of the champion, then of the challenger."""
        rows = [row for row in self.tallies if row.scope == scope]
        names = ("champion_trials", "champion_faults", "challenger_trials", "challenger_faults")
        found = [sum(getattr(row, name) for row in rows) for name in names]
        return found[0], found[1], found[2], found[3]


@dataclass(frozen=True)
class _Model:
    model_id: str
    warm_up: int
    needs_clock: bool


@dataclass
class _Versions:
    """The versions of a process: as its pool, and as its batcher."""

    does: Mapping[str, Does]

    def ready(self) -> frozenset[str]:
        return frozenset(one for one, what in self.does.items() if what is not Does.ABSENT)

    @contextmanager
    def borrow(self, model_id: str) -> Iterator[_Model]:
        if model_id not in self.ready():
            raise NotLoaded(model_id)
        what = self.does[model_id]
        yield _Model(model_id, BARS + (what is Does.NEEDS_MORE), what is Does.NEEDS_TIMES)

    async def forecast(self, model: _Model, window: Window, **how: object) -> Any:
        what = self.does[model.model_id]
        if what in (Does.FAILS, Does.TIMES_OUT):
            kind = "error" if what is Does.FAILS else "timeout"
            raise ModelFault(model.model_id, kind, "as told")
        return np.zeros(len(window))


def send(route: Route, does: Mapping[str, Does]) -> Sent:
    """One request to a replica whose versions do as told."""
    counters = RequestCounters("r0", "1")
    versions: Any = _Versions(does)
    view = RouteView({SERVICE: RouteState(route, NOW, float("inf"))})
    dispatcher = Dispatcher(
        replica_id="r0",
        pool=versions,
        batcher=versions,
        counters=counters,
        route_view=lambda: view,
        versions={},
        budget_s=1.0,
        on_fault=lambda service, fault: None,
    )
    asked = dispatcher.answer(SERVICE, [WINDOW], key="BTC")
    answer: Answer | Exception
    try:
        asked.send(None)
        raise AssertionError("nothing here waits")
    except StopIteration as done:
        answer = done.value
    except (ModelFault, NotReady, RequestRefused) as error:
        answer = error
    faults = {row.model_id: row.traffic.faults for row in counters.take_traffic()}
    return Sent(route, does, answer, tuple(counters.take_evidence().get(SERVICE, ())), faults)


def broken_by_requests() -> Iterator[str]:
    """The laws that some request breaks."""
    for route in ROUTES:
        names = "ABCD" if route.challenger else "ACD"
        for what in product(Does, repeat=len(names)):
            sent = send(route, dict(zip(names, what, strict=True)))
            yield from (law.__name__ for law in REQUEST_LAWS if not law(sent))


def no_refused_or_uncomputable_input_is_a_trial(sent: Sent) -> bool:
    trials = [sent.counted(scope) for scope in ("rollout", "champion:A")]
    return sent.computed_by is not None or not any(map(any, trials))


def what_no_version_computes_is_a_400_and_counted_nowhere(sent: Sent) -> bool:
    if not sent.able or any(sent.does[one] is not Does.FAILS for one in sent.able):
        return True
    refused = isinstance(sent.answer, RequestRefused) and sent.answer.status == 400
    return refused and not sent.faults


def the_first_version_that_can_answer_answers(sent: Sent) -> bool:
    if sent.computed_by is None:
        return isinstance(sent.answer, Exception)
    return isinstance(sent.answer, Answer) and sent.answer.model_id == sent.computed_by


def too_few_bars_are_no_trial_and_no_fault_of_a_version(sent: Sent) -> bool:
    short = [one for one in sent.order if one not in sent.able]
    own = {"A": sent.counted("champion:A")[:2], "B": sent.counted("rollout")[2:]}
    return not any(sent.faults.get(one) or any(own.get(one, ())) for one in short)


def a_version_is_charged_with_what_it_was_asked_first(sent: Sent) -> bool:
    first = sent.able[0] if sent.able else ""
    if sent.computed_by is None or first not in ("A", "B"):
        return True
    failed = sent.does[first] is not Does.COMPUTES
    counted = sent.counted("champion:A")[:2] if first == "A" else sent.counted("rollout")[2:]
    return counted == (1, failed)


def another_version_that_answers_is_no_trial_of_it(sent: Sent) -> bool:
    helped = "A" in sent.able[1:] and sent.does["A"] is Does.COMPUTES
    return not helped or sent.counted("champion:A") == (0, 0, 0, 0)


def keys_dealt_to_the_challenger_are_counted_with_their_bars(sent: Sent) -> bool:
    if sent.computed_by is None or "B" not in sent.order:
        return True
    return sent.counted("dealt:rollout")[2:] == (1, "B" not in sent.able)


REQUEST_LAWS = (
    no_refused_or_uncomputable_input_is_a_trial,
    what_no_version_computes_is_a_400_and_counted_nowhere,
    the_first_version_that_can_answer_answers,
    too_few_bars_are_no_trial_and_no_fault_of_a_version,
    a_version_is_charged_with_what_it_was_asked_first,
    another_version_that_answers_is_no_trial_of_it,
    keys_dealt_to_the_challenger_are_counted_with_their_bars,
)


# Champions ----------------------------------------------------------------------------------


class Known(NamedTuple):
    """The evidence on a champion: faults of 1,000 requests and of 23 inputs of our own.

    None where there is none; old evidence was written before the window.
    """

    faults: int | None
    own_faults: int | None
    live_is_old: bool = False
    own_is_old: bool = False

    @property
    def fails_requests(self) -> bool:
        return bool(self.faults and self.faults > 100) and not self.live_is_old

    @property
    def own(self) -> int | None:
        return None if self.own_is_old else self.own_faults


SITUATIONS = tuple(
    Known(faults, own, *old)
    for faults, own, old in product(
        (None, 1, 200), (None, 0, 2), ((False, False), (True, False), (False, True))
    )
    if not (old[0] and faults is None) and not (old[1] and own is None)
)


def broken_by_champions(store: Store) -> Iterator[str]:
    """The laws that the controller breaks in some situation of a champion."""
    controller = Controller(store, "one")
    _put_evidence(store, Known(200, 2))
    if _falls(controller):
        yield "a_route_is_moved_only_to_what_a_live_replica_holds"
    yield from _broken_by_loads(store, controller)
    replica = RowReplica(store)
    for known in SITUATIONS:
        replica.follow()
        _put_evidence(store, known)
        falls = _falls(controller)
        alerts = list_alerts(store, lasting_only=True)
        told = any(alert.subject == REQUESTS for alert in alerts)
        if falls and not known.own:
            yield "client_input_alone_never_moves_a_route_off_its_champion"
        if falls and not known.fails_requests:
            yield "inputs_of_our_own_alone_move_no_route"
        if not falls and known.fails_requests and known.own:
            yield "a_champion_that_fails_on_both_falls"
        if told != (known.fails_requests and known.own == 0):
            yield "people_are_told_where_requests_alone_fail"
        if falls:
            _put_back(store)


def _broken_by_loads(store: Store, controller: Controller) -> Iterator[str]:
    """The laws that the controller breaks where replicas cannot load a champion."""
    _put_evidence(store, Known(1, 0))
    one, other = RowReplica(store), RowReplica(store, "r1")
    able, this = frozenset[str](), frozenset({CHAMPION})
    for lacks, broken, must_fall in ((this, able, False), (this, this, False), (able, this, True)):
        one.lacks, one.unloadable, other.unloadable = lacks, broken - lacks, broken
        for replica in (one, other):
            replica.crash()
            replica.follow()
        falls = _falls(controller)
        if falls and not must_fall:
            yield "a_load_failure_of_a_replica_moves_no_route_and_no_status"
        if must_fall and not falls:
            yield "a_champion_whose_files_are_wrong_everywhere_falls"
        if falls:
            _put_back(store)
    for replica in (one, other):
        replica.leave()


def _falls(controller: Controller) -> bool:
    return any(moved.what == "fall_back" for moved in controller.tick())


def _put_evidence(store: Store, known: Known) -> None:
    count_champion(store, trials=1000, faults=known.faults or 0, own_faults=known.own_faults or 0)
    ages = {
        Source.LIVE: (known.faults, known.live_is_old),
        Source.REPLAY: (known.own_faults, known.own_is_old),
    }
    with store.write() as connection:
        for source, (counted, is_old) in ages.items():
            of_source = evidence.c.source == source
            if counted is None:
                connection.execute(evidence.delete().where(of_source))
            elif is_old:
                written = db_now() - WINDOW_S - 1
                connection.execute(evidence.update().where(of_source).values(updated_at=written))


def _put_back(store: Store) -> None:
    with store.write() as connection:
        route = route_of(store)
        change_route(connection, route, replace(route, champion=CHAMPION), "test", Why(NOW))
        change_status(connection, CHAMPION, Status.DEPLOYED, Why(NOW))
