"""A rollout is a row that somebody asks for; taking back is one row too."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlops.errors import RolloutError, RolloutRefused, ServiceNotFound, StoreError, VersionNotFound
from mlops.rollout.plan import RolloutPlan, Strategy, plan_for
from mlops.rollout.request import request_rollout, roll_back
from mlops.store import (
    ModelVersion,
    Phase,
    Status,
    Store,
    Why,
    get_rollout,
    get_version,
    list_audit_entries,
    list_events,
    list_live_periods,
    list_rollouts,
)
from mlops.store.audit import SYSTEM
from mlops.store.leases import exclusive
from mlops.store.retention import list_marked_bundles, mark_old_bundles
from mlops.store.rollouts import insert_rollout
from mlops.store.routes import change_route
from mlops.store.versions import change_status

from .rows import (
    ASKED,
    BASELINE,
    CHALLENGER,
    CHAMPION,
    NOW,
    SERVICE,
    RowReplica,
    add_version,
    ask,
    route_of,
)

PLAN = plan_for("canary")


def test_a_request_is_a_pending_row_with_its_event_and_its_audit_entry(service: Store) -> None:
    asked = ask(service, now=NOW)
    row = get_rollout(service, asked.id)
    assert row == asked
    assert (row.phase, row.from_version, row.to_version) == (Phase.PENDING, CHAMPION, CHALLENGER)
    assert (row.since, row.deadline) == (NOW, NOW + PLAN.patience(Phase.PENDING))
    assert RolloutPlan.from_dict(row.plan) == PLAN
    assert (row.requested_by, row.requested_why) == ("anna", "it is better")
    assert [(e.seq, e.from_phase, e.to_phase) for e in list_events(service, row.id)] == [
        (0, None, Phase.PENDING)
    ]
    entry = list_audit_entries(service, subject=CHALLENGER)[-1]
    assert (entry.action, entry.actor, entry.reason) == ("request_rollout", "anna", "it is better")
    assert entry.after == {"rollout": row.id, "strategy": "canary", "forced": False}
    assert route_of(service).challenger is None


def test_without_a_time_the_database_says_what_it_is(service: Store) -> None:
    asked = ask(service)
    assert asked.since > NOW
    assert list_audit_entries(service, subject=CHALLENGER)[-1].at == asked.since


def test_a_bundle_that_is_marked_while_a_rollout_is_requested_is_not_rolled_out(
    service: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(service, "unused", 4, status=Status.RETIRED)

    def get_and_mark(store: Store, model_id: str) -> ModelVersion:
        row = get_version(store, model_id)
        assert mark(store) == ["unused"]
        return row

    monkeypatch.setattr("mlops.rollout.request.get_version", get_and_mark)
    with pytest.raises(RolloutRefused, match="the bundle of unused was removed"):
        request_rollout(service, "unused", PLAN, ASKED)
    assert list_rollouts(service) == ()


def test_a_bundle_is_not_marked_before_a_request_under_way_has_ended(
    service: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(service, "unused", 4, status=Status.RETIRED)
    with ThreadPoolExecutor(1) as pool:
        marked: list[Future[list[str]]] = []

        def insert_late(*given: Any) -> None:
            marked.append(pool.submit(mark, service))
            with suppress(TimeoutError):
                marked[0].result(timeout=0.3)
            insert_rollout(*given)

        monkeypatch.setattr("mlops.rollout.request.insert_rollout", insert_late)
        request_rollout(service, "unused", PLAN, ASKED)
        assert marked[0].result() == []


def mark(store: Store) -> list[str]:
    """Mark what is unused, as retention does; returns the marked versions."""
    later = NOW + timedelta(days=100)
    with exclusive(store, "registration", "test", timeout_s=0.0) as lease:
        mark_old_bundles(store, lease, before=later, limit=10, at=later)
    return [row.model_id for row in list_marked_bundles(store, limit=10)]


def refused_version(store: Store, **changes: Any) -> str:
    return add_version(store, "another", 4, **changes).model_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": Status.REFUSED}, "its status is refused"),
        ({"status": Status.FAILED}, "its status is failed"),
        ({"status": Status.TRAINING}, "its status is training"),
        ({"status": Status.CHALLENGER, "claims_only": True}, "its caller's claims"),
        ({"status": Status.CHALLENGER, "report": {"passed": False}}, "its gates refused it"),
        ({"status": Status.CHALLENGER, "report": {}}, "its gates refused it"),
    ],
)
def test_gates_are_read_again(service: Store, changes: dict[str, Any], message: str) -> None:
    model_id = refused_version(service, **changes)
    with pytest.raises(RolloutRefused, match=message):
        request_rollout(service, model_id, PLAN, ASKED)
    assert list_rollouts(service) == ()


def test_a_version_with_claims_may_be_shadowed_and_nothing_else(service: Store) -> None:
    model_id = refused_version(service, status=Status.REFUSED, claims_only=True, report=None)
    for strategy in (Strategy.BLUE_GREEN, Strategy.CANARY, Strategy.ROLLING):
        with pytest.raises(RolloutRefused, match="its caller's claims"):
            request_rollout(service, model_id, plan_for(strategy), ASKED)
    shadow = request_rollout(service, model_id, plan_for(Strategy.SHADOW), ASKED)
    assert (shadow.forced, shadow.to_version) == (False, model_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": Status.REFUSED, "report": {"passed": False}},
        {"status": Status.FAILED, "claims_only": True},
    ],
)
def test_a_shadow_takes_nothing_that_was_refused_or_failed(
    service: Store, changes: dict[str, Any]
) -> None:
    model_id = refused_version(service, **changes)
    with pytest.raises(RolloutRefused, match="may not go live"):
        request_rollout(service, model_id, plan_for(Strategy.SHADOW), ASKED)


@pytest.mark.parametrize(
    "changes", [{"status": Status.REFUSED}, {"status": Status.CHALLENGER, "claims_only": True}]
)
def test_a_person_with_a_reason_can_force_it(service: Store, changes: dict[str, Any]) -> None:
    model_id = refused_version(service, **changes)
    asked = request_rollout(service, model_id, PLAN, ASKED, force=True)
    assert asked.forced
    assert list_audit_entries(service, subject=model_id)[-1].after["forced"] is True  # type: ignore[index]


@pytest.mark.parametrize(
    "why",
    [
        Why(NOW, actor="anna", reason=""),
        Why(NOW, actor="anna", reason="  "),
        Why(NOW, actor="", reason="it is better"),
        Why(NOW, actor=SYSTEM, reason="it is better"),
    ],
)
def test_forcing_needs_a_person_and_a_reason(service: Store, why: Why) -> None:
    model_id = refused_version(service, status=Status.REFUSED)
    with pytest.raises(RolloutRefused, match="needs a person and a reason"):
        request_rollout(service, model_id, PLAN, why, force=True)


@pytest.mark.parametrize("status", [Status.CHALLENGER, Status.RETIRED])
def test_what_passed_or_was_live_before_may_go_live(service: Store, status: Status) -> None:
    model_id = refused_version(service, status=status)
    assert request_rollout(service, model_id, PLAN, ASKED).to_version == model_id


def test_a_second_rollout_of_a_service_is_refused(service: Store) -> None:
    first = ask(service)
    with pytest.raises(RolloutRefused, match=f"{first.id} is bringing challenger live"):
        ask(service)
    assert list_rollouts(service) == (get_rollout(service, first.id),)


def test_the_database_itself_refuses_a_second_open_rollout(service: Store) -> None:
    first = ask(service)
    with pytest.raises(StoreError, match=r"(?i)unique"), service.write() as connection:
        insert_rollout(connection, replace(first, id="rollout-2"), ASKED)


def test_the_champion_is_live_already(service: Store) -> None:
    with pytest.raises(RolloutRefused, match=r"is the champion of .* already"):
        request_rollout(service, CHAMPION, PLAN, ASKED)


def test_an_unknown_version_is_refused(service: Store) -> None:
    with pytest.raises(VersionNotFound, match="nobody"):
        request_rollout(service, "nobody", PLAN, ASKED)


def test_a_service_that_has_not_begun_has_no_rollouts(store: Store) -> None:
    add_version(store, "early", 1, status=Status.CHALLENGER)
    with pytest.raises(RolloutRefused, match="has not begun"):
        request_rollout(store, "early", PLAN, ASKED)


# Taking back --------------------------------------------------------------------------------


class Proof:
    """Notes what was to be proved, and what was live then."""

    def __init__(self, store: Store, *, fails: bool = False) -> None:
        self.store, self.fails = store, fails
        self.seen: list[tuple[str, str]] = []

    def __call__(self, version: ModelVersion) -> None:
        self.seen.append((version.model_id, route_of(self.store).champion))
        if self.fails:
            raise RolloutError(f"{version.model_id} does not forecast")


@pytest.fixture
def promoted(service: Store) -> Store:
    """A service whose challenger was promoted."""
    with service.write() as connection:
        before = route_of(service)
        after = replace(before, champion=CHALLENGER, previous_champion=CHAMPION)
        change_route(connection, before, after, "rollout_promoted", Why(NOW))
        change_status(connection, CHALLENGER, Status.DEPLOYED, Why(NOW))
        change_status(connection, CHAMPION, Status.RETIRED, Why(NOW))
    return service


BACK = Why(NOW, actor="anna", reason="it looks odd")


def test_rolling_back_proves_the_previous_champion_before_the_pointer_moves(
    promoted: Store,
) -> None:
    RowReplica(promoted).follow()
    proof = Proof(promoted)
    before = route_of(promoted)
    after = roll_back(promoted, SERVICE, BACK, prove=proof)
    assert proof.seen == [(CHAMPION, CHALLENGER)]
    assert route_of(promoted) == after
    assert (after.champion, after.previous_champion) == (CHAMPION, None)
    assert after.generation == before.generation + 1
    assert get_version(promoted, CHAMPION).status is Status.DEPLOYED
    assert get_version(promoted, CHALLENGER).status is Status.RETIRED
    reign = list_live_periods(promoted, SERVICE)[-1]
    assert (reign.action, reign.actor, reign.reason) == ("roll_back", "anna", "it looks odd")


def test_what_cannot_be_proved_moves_nothing(promoted: Store) -> None:
    RowReplica(promoted).follow()
    before = route_of(promoted)
    with pytest.raises(RolloutError, match="does not forecast"):
        roll_back(promoted, SERVICE, BACK, prove=Proof(promoted, fails=True))
    assert route_of(promoted) == before
    assert get_version(promoted, CHALLENGER).status is Status.DEPLOYED


def test_a_replica_that_lacks_the_version_forbids_it(promoted: Store) -> None:
    RowReplica(promoted, "r0").follow()
    RowReplica(promoted, "r1", unloadable=frozenset({CHAMPION})).follow()
    proof = Proof(promoted)
    with pytest.raises(RolloutError, match="champion is not ready in r1"):
        roll_back(promoted, SERVICE, BACK, prove=proof)
    assert proof.seen == []


def test_a_replica_that_has_no_room_for_the_version_does_not_forbid_it(promoted: Store) -> None:
    RowReplica(promoted, "r0").follow()
    RowReplica(promoted, "r1", lacks=frozenset({CHAMPION})).follow()
    assert roll_back(promoted, SERVICE, BACK, prove=Proof(promoted)).champion == CHAMPION


def test_what_no_live_replica_holds_takes_no_place(promoted: Store) -> None:
    """Where no replica lives, the proof loads the version in this process."""
    RowReplica(promoted, lacks=frozenset({CHAMPION})).follow()
    with pytest.raises(RolloutError, match="no live replica holds champion"):
        roll_back(promoted, SERVICE, BACK, prove=Proof(promoted))
    assert route_of(promoted).champion == CHALLENGER
    RowReplica(promoted).leave()
    assert roll_back(promoted, SERVICE, BACK, prove=Proof(promoted)).champion == CHAMPION


def test_an_open_rollout_is_aborted_instead(promoted: Store) -> None:
    RowReplica(promoted).follow()
    model_id = add_version(promoted, "next", 4, status=Status.CHALLENGER).model_id
    asked = request_rollout(promoted, model_id, PLAN, ASKED)
    with pytest.raises(RolloutError, match=f"{asked.id} is bringing next live .* abort it"):
        roll_back(promoted, SERVICE, BACK, prove=Proof(promoted))
    assert route_of(promoted).champion == CHALLENGER


def test_without_a_previous_champion_the_baseline_takes_over(service: Store) -> None:
    RowReplica(service).follow()
    assert roll_back(service, SERVICE, BACK, prove=Proof(service)).champion == BASELINE


def test_a_previous_champion_that_has_failed_is_no_way_back(promoted: Store) -> None:
    RowReplica(promoted).follow()
    with promoted.write() as connection:
        change_status(connection, CHAMPION, Status.FAILED, Why(NOW))
    assert roll_back(promoted, SERVICE, BACK, prove=Proof(promoted)).champion == BASELINE


def test_below_the_baseline_there_is_nothing(service: Store) -> None:
    RowReplica(service).follow()
    roll_back(service, SERVICE, BACK, prove=Proof(service))
    with pytest.raises(RolloutError, match="is on its baseline"):
        roll_back(service, SERVICE, BACK, prove=Proof(service))


def test_a_service_that_has_not_begun_cannot_be_rolled_back(store: Store) -> None:
    with pytest.raises(ServiceNotFound, match="has not begun"):
        roll_back(store, SERVICE, BACK, prove=Proof(store))
