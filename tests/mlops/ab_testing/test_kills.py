"""Whoever dies at whatever statement of look, verdict and promotion: one verdict, one promotion."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest
import sqlalchemy as sa

from mlops.rollout.controller import Controller
from mlops.service import Service
from mlops.store import Phase, Store, Verdict, get_rollout, list_audit_entries, open_store
from mlops.store.ab_tests import list_looks
from mlops.store.rollouts import list_events
from tests.forked import in_child
from tests.mlops.ab_testing.stage import RECORD, START, Stage, hour
from tests.mlops.rollout.books import check_books
from tests.mlops.rollout.rows import (
    CHALLENGER,
    CHAMPION,
    SPLIT_BP,
    RowReplica,
    ask_test,
    begin_service,
    carry,
    count,
    route_of,
)
from tests.stores import empty_url, url

__all__ = ["empty_url", "url"]

SERVICE = Service.of(
    venue="sample", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
PAIRS = 500
MOST_STATEMENTS = 300

both = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgres", marks=pytest.mark.faults)], indirect=True
)


class Course:
    """A test in which the challenger is better by 500 pairs, and that nobody has looked at."""

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.url = store, url
        begin_service(store)
        test = ask_test(
            store, since_bar=START, min_until_bar=hour(0), until_bar=hour(9999), record=RECORD
        )
        self.stage = Stage(store, service=SERVICE, test_id=test.id)
        self.replica, self.rollout_id = RowReplica(store), test.rollout_id
        count(store, get_rollout(store, test.rollout_id))
        carry(Controller(store, "one"), [self.replica])
        errors = np.random.default_rng(1).normal(size=PAIRS)
        self.stage.forecast(range(PAIRS), errors, 0.8 * errors)
        self.stage.settle(range(PAIRS))

    def look(self, store: Store) -> None:
        bars = PAIRS + SERVICE.horizon
        Stage(store, service=SERVICE, test_id=self.stage.test_id).look(bars)

    def promote(self, store: Store) -> None:
        Controller(store, "one").tick()

    def killed_at_every_statement(self, work: Callable[[Store], None]) -> Iterator[None]:
        """Do the work in processes that die before their first, second, ... statement or commit.

        It ends with the process that has no such statement left.
        """
        for statement in range(1, MOST_STATEMENTS):
            status = in_child(lambda: self._die_at(statement, work))  # noqa: B023
            if status == 0:
                return
            assert os.WTERMSIG(status) == signal.SIGKILL
            yield
        raise AssertionError(f"the work has more than {MOST_STATEMENTS} statements")

    def _die_at(self, statement: int, work: Callable[[Store], None]) -> None:
        with closing(open_store(self.url)) as store:
            seen = 0

            def strike(*_: object) -> None:
                nonlocal seen
                seen += 1
                if seen == statement:
                    os.kill(os.getpid(), signal.SIGKILL)

            sa.event.listen(store.engine, "before_cursor_execute", strike)
            sa.event.listen(store.engine, "commit", strike)
            work(store)

    @property
    def phases(self) -> list[Phase]:
        return [event.to_phase for event in list_events(self.store, self.rollout_id)]


@pytest.fixture
def course(url: str) -> Iterator[Course]:
    with closing(open_store(url)) as store:
        yield Course(store, url)


@both
def test_a_look_that_dies_at_any_statement_leaves_look_and_verdict_or_neither(
    course: Course,
) -> None:
    deaths = 0
    for _ in course.killed_at_every_statement(course.look):
        deaths += 1
        looks, verdict = list_looks(course.store, course.stage.test_id), course.stage.test.verdict
        assert [look.word for look in looks] == ([] if verdict is None else [verdict])
        assert route_of(course.store).champion == CHAMPION
    assert deaths >= 8, "read, look, verdict, audit and commit"
    (look,) = list_looks(course.store, course.stage.test_id)
    assert (look.pairs, look.word) == (PAIRS, Verdict.BETTER)
    assert course.stage.test.verdict is Verdict.BETTER
    told = [one for one in list_audit_entries(course.store) if one.action == "conclude_ab_test"]
    assert len(told) == 1


@both
def test_a_promotion_that_dies_at_any_statement_is_made_once_by_the_next_controller(
    course: Course,
) -> None:
    course.promote(course.store)
    assert (course.phases[-1], route_of(course.store).weight_bp) == (Phase.STEP, SPLIT_BP)
    course.look(course.store)
    deaths = 0
    for _ in course.killed_at_every_statement(course.promote):
        deaths += 1
        promoted = course.phases.count(Phase.PROMOTED)
        champion = (CHAMPION, CHALLENGER)[promoted]
        assert route_of(course.store).champion == champion
        check_books(course.store)
    assert deaths >= 20, "lease, reading, arrow, its route, statuses and audit"
    assert course.phases.count(Phase.PROMOTED) == 1
    assert route_of(course.store).champion == CHALLENGER
    assert course.stage.test.verdict is Verdict.BETTER
    assert len(course.stage.read(PAIRS + SERVICE.horizon).pairs.closed_at) == PAIRS
