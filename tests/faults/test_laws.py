"""The judges themselves: a broken law is found."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from mlops.rollout.decide import _RULES
from mlops.store import Phase, Store, open_store
from mlops.store.schema import route_history
from tests.faults.laws import (
    ARROWS,
    Death,
    broken_in_store,
    broken_readiness,
    judge_requests,
    legal,
    violations,
)
from tests.faults.notes import Note
from tests.faults.results import Change, Request, Results, Tried
from tests.faults.stage import Stage
from tests.faults.template import AT, CHAMPION, KEY

GOOD_PATH = [None, *map(Phase, ("pending", "loading", "gate", "step", "promoted", "done"))]


def test_every_phase_that_has_a_rule_may_be_left() -> None:
    assert {phase for phase in ARROWS if phase is not None} == set(Phase)
    left = {phase for phase, after in ARROWS.items() if after}
    assert left - {None, Phase.WAITING} == set(_RULES)


def test_a_path_that_skips_the_gate_is_not_legal() -> None:
    assert legal(GOOD_PATH)
    assert not legal([phase for phase in GOOD_PATH if phase is not Phase.GATE])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"champion": "good"}, "without having passed a gate"),
        ({"challenger": "champion"}, "names one version twice"),
        ({"weight_bp": 100}, "gives a share to nobody"),
        ({"generation": 7}, "do not count up by one"),
    ],
)
def test_a_history_that_was_tampered_with_is_found(
    stage: Stage, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    stage.template.copy_store_to(url)
    with closing(open_store(url)) as store:
        assert list(broken_in_store(store)) == []
        _tamper(store, change)
        assert any(said in one for one in broken_in_store(store))


def _tamper(store: Store, change: dict[str, object]) -> None:
    """A row behind everybody's back: what is there cannot be altered."""
    row = {
        "service": KEY, "generation": 3, "at": AT, "champion": CHAMPION, "weight_bp": 0,
        "action": "other", "actor": "nobody", "reason": "",
    }  # fmt: skip
    with store.write() as connection:
        connection.execute(route_history.insert().values(**row | change))


def request(first: Tried, retry: Tried | None = None) -> Results:
    changes = [Change("a", 0.0, "200"), Change("a", 10.5, "refused")]
    return Results([Request(1, None, first, retry)], changes, [])


def tried(replica: str, at: float, **changes: object) -> Tried:
    return Tried(replica, at, at + 1.0, **changes)  # type: ignore[arg-type]


ANSWERED = tried("b", 10.2, status=200, version="champion")
KILLED = [Death("a", 10.0)]


def test_what_was_in_flight_in_a_killed_process_may_fail_once() -> None:
    lost = request(tried("a", 9.5, failed="closed"), ANSWERED)
    assert judge_requests(lost, KILLED).allowed == 1
    assert judge_requests(lost, KILLED).broken == ()


@pytest.mark.parametrize(
    "results",
    [
        request(tried("a", 9.5, failed="closed"), None),
        request(tried("a", 9.5, failed="closed"), tried("b", 10.2, status=503)),
        request(tried("b", 9.5, failed="closed"), ANSWERED),
        request(tried("a", 8.5, failed="closed"), ANSWERED),
        request(tried("a", 10.6, failed="refused"), ANSWERED),
        request(tried("a", 9.5, status=500), ANSWERED),
        request(tried("a", 9.5, status=200, version="corrupt")),
    ],
    ids=["no-retry", "retry-failed", "other", "before", "long-after", "error", "unsound"],
)
def test_any_other_failure_is_held_against_us(results: Results) -> None:
    assert len(judge_requests(results, KILLED).broken) == 1


def test_a_replica_that_stops_being_ready_by_itself_is_found() -> None:
    results = request(ANSWERED)
    assert list(broken_readiness(results, KILLED, [])) == []
    assert len(list(broken_readiness(results, [], []))) == 1
    assert len(list(broken_readiness(results, [Death("b", 10.0)], []))) == 1


def test_a_model_that_was_asked_before_it_was_ready_is_found() -> None:
    assert list(violations([Note(1.0, "replica-1", "violation", "asked")])) == ["replica-1: asked"]
