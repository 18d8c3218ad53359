"""A trigger is claimed, answered by the new version's own row, and never by one who comes late."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.monitor import monitor
from flows.reconcile import reconcile
from flows.retrain import retrain
from mlops.data.simulator import simulate_bars
from mlops.errors import LeaseLost
from mlops.logs import LIBRARY, JsonFormatter
from mlops.store import Status, Store, Why, get_route, get_version, list_versions
from mlops.store.alerts import Condition, Trouble, raise_alert
from mlops.store.leases import exclusive
from mlops.store.routes import change_route, read_route
from mlops.store.schema import lease, trigger
from mlops.store.triggers import (
    Answer,
    Cause,
    TriggerReason,
    TriggerState,
    answer_triggers,
    claim_triggers,
    list_triggers,
    raise_trigger,
    training_lease,
)
from tasks import events, training
from tests.flows.deployable import Deployable
from tests.project import BARS, SEED, SERVICE

ROOT = Path(__file__).parents[2]
CREATED = datetime(2025, 1, 1, tzinfo=UTC)


def ask(store: Store, watermark: str = "2025-01-01") -> None:
    reason = TriggerReason(
        service=SERVICE,
        cause=Cause.DRIFT,
        watermark=watermark,
        champion="linear_BTC",
        text="volume has drifted",
        verdict="check-1",
    )
    with store.write() as connection:
        raise_trigger(connection, reason, at=datetime.now(UTC))


@pytest.fixture
def store(deployable: Deployable) -> Store:
    return deployable.place.registry.store


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events that would be emitted."""
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: heard.append(event))
    return heard


def test_where_nothing_waits_nothing_is_trained(store: Store) -> None:
    before = list_versions(store)
    assert retrain(SERVICE) is None
    assert list_versions(store) == before


@contextmanager
def later(deployable: Deployable, days: int) -> Iterator[None]:
    """So many days of bars have come since."""
    bars = deployable.place.bars
    before = bars.read_bytes()
    simulate_bars(BARS + days * 24, seed=SEED).to_parquet(bars)
    yield
    bars.write_bytes(before)


def test_a_refusal_for_want_of_bars_is_tried_again_when_they_have_come(
    store: Store, deployable: Deployable
) -> None:
    ask(store)
    with later(deployable, days=14):
        result = retrain(SERVICE, auto_deploy=False)
    assert result is not None
    assert "G0 test bars" in result.refused_by
    [row] = list_triggers(store)
    assert (row.state, row.answer) == (TriggerState.WAITING, Answer.TOO_EARLY)
    assert row.claimed_at is not None
    assert row.not_before is not None
    # 500 are asked for; the labels of the last 24 of these 336 are not known yet.
    assert row.not_before - row.claimed_at == timedelta(hours=500 - (336 - 24))
    assert retrain(SERVICE) is None


def test_the_row_of_the_new_version_answers_its_triggers(
    store: Store, deployable: Deployable
) -> None:
    before = {version.model_id: version for version in list_versions(store)}
    asked_for = max(before.values(), key=lambda version: version.mlflow_version)
    for watermark in ("2025-01-01", "2025-01-08"):
        ask(store, watermark)
    with later(deployable, days=30):
        result = retrain(SERVICE, auto_deploy=False)
    assert result is not None
    rows = list_triggers(store, SERVICE)
    wanted = Answer.CHALLENGER if result.passed else Answer.REFUSED
    assert {(row.state, row.answer, row.model_id) for row in rows} == {
        (TriggerState.ANSWERED, wanted, result.model_id)
    }
    [new] = [one for one in list_versions(store) if one.model_id not in before]
    assert new.model_id == result.model_id
    # The same was asked for again, so that no new search is counted.
    assert new.notes["request"] == asked_for.notes["request"]
    assert (new.notes["reason"], new.notes["refit"]) == ("drift", True)
    assert new.notes["triggers"] == [row.id for row in rows]
    assert retrain(SERVICE) is None


@pytest.fixture
def degraded(store: Store, deployable: Deployable) -> str:
    """The challenger has become the champion and then lost its skill; its model_id."""
    champion = deployable.challenger
    reason = TriggerReason(
        service=SERVICE, cause=Cause.PERFORMANCE, watermark="-", champion=champion, text="-"
    )
    trouble = Trouble(Condition.PERFORMANCE_DEGRADED, SERVICE, champion, "it lost its skill", "-")
    with store.write() as connection:
        route = read_route(connection, SERVICE)
        assert route is not None
        change_route(connection, route, replace(route, champion=champion), "up", Why(CREATED))
        raise_trigger(connection, reason, at=CREATED)
        raise_alert(connection, trouble, at=CREATED)
    return champion


@contextmanager
def written() -> Iterator[list[dict[str, Any]]]:
    """The library's lines as a process of ours would write them."""
    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    library, kept = logging.getLogger(LIBRARY), Kept()
    kept.setFormatter(JsonFormatter())
    library.addHandler(kept)
    library.setLevel(logging.INFO)
    yield lines
    library.setLevel(logging.NOTSET)
    library.removeHandler(kept)


def test_skill_lost_and_retraining_refused_is_back_to_the_baseline(
    store: Store, deployable: Deployable, degraded: str
) -> None:
    deployable.place.set(MIN_R2_SCORE=0.999, VALIDATION_THRESHOLD_MODE="strict")
    with later(deployable, days=30), written() as lines:
        result = retrain(SERVICE)
    assert result is not None
    assert not result.passed
    [registered] = [one for one in lines if one["message"].startswith("registered")]
    assert (registered["service"], registered["model_id"]) == (SERVICE, result.model_id)
    assert uuid.UUID(registered["flow_run_id"])
    assert {one["flow_run_id"] for one in lines} == {registered["flow_run_id"]}
    route = get_route(store, SERVICE)
    assert route is not None
    assert route.champion == route.baseline
    assert get_version(store, degraded).status is Status.RETIRED
    registry = deployable.place.registry
    named = registry.tracking.client.get_model_version_by_alias(SERVICE, "champion")
    assert int(named.version) == get_version(store, route.baseline).mlflow_version


def test_what_died_after_the_refusal_is_caught_up_with_by_the_monitor(
    store: Store, deployable: Deployable, degraded: str
) -> None:
    with exclusive(store, training_lease(SERVICE), "run", timeout_s=0.0) as held:
        claim = claim_triggers(store, SERVICE, "run", lease=held, at=CREATED)
        assert claim is not None
        with store.write() as connection:
            answer_triggers(connection, claim, Answer.REFUSED, at=CREATED, model_id="refused")
    now = (deployable.place.frame.index[-1] + timedelta(hours=1)).to_pydatetime()
    [said] = monitor(now=now).returned
    assert degraded in said
    assert monitor(now=now).returned == ()


def test_a_training_that_fails_leaves_its_triggers_and_is_rung_for_again(
    store: Store, rung: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(store)
    monkeypatch.setenv("MIN_TRAINING_DATA_POINTS", "1000000")
    with pytest.raises(Exception, match="at least 1,000,000 bars"):
        retrain(SERVICE)
    [row] = list_triggers(store)
    assert (row.state, row.answer, row.attempts) == (TriggerState.CLAIMED, None, 1)
    assert reconcile(carry_s=1.0).rung == ()
    _let_the_cooldown_pass(store)
    assert reconcile(carry_s=1.0).rung == (f"{SERVICE} rung for again: drift",)
    assert rung == [
        {
            "event": events.DRIFT_DETECTED,
            "resource": {"prefect.resource.id": f"mlops.service.{SERVICE}"},
            "payload": {"service": SERVICE},
        }
    ]


def _let_the_cooldown_pass(store: Store) -> None:
    with store.write() as connection:
        connection.execute(trigger.update().values(claimed_at=datetime(2020, 1, 1, tzinfo=UTC)))


def test_who_lost_the_lease_registers_and_answers_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process was paused for longer than its lease lasts."""
    before = list_versions(store)
    ask(store)
    plan = training.plan.fn

    def lose_lease(*given: Any, **more: Any) -> Any:
        with store.write() as connection:
            another = {"holder": "another run", "term": lease.c.term + 1}
            connection.execute(lease.update().values(**another))
        return plan(*given, **more)

    monkeypatch.setattr(training.plan, "fn", lose_lease)
    with pytest.raises(LeaseLost):
        retrain(SERVICE)
    assert list_versions(store) == before
    [row] = list_triggers(store)
    assert (row.state, row.answer) == (TriggerState.CLAIMED, None)


def test_while_a_training_of_the_service_runs_another_one_ends_and_claims_nothing(
    store: Store,
) -> None:
    ask(store)
    with exclusive(store, training_lease(SERVICE), "a training", timeout_s=0.0):
        assert retrain(SERVICE) is None
    [row] = list_triggers(store)
    assert (row.state, row.attempts) == (TriggerState.WAITING, 0)


def test_the_events_are_those_that_the_deployment_listens_to() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    [listening] = [one for one in deployments if one["entrypoint"] == "flows/retrain.py:retrain"]
    [event] = listening["triggers"]
    assert set(event["expect"]) == set(events.EVENTS.values())
    assert set(event["parameters"]) == {"service"}
