"""A test is begun by a flow or a training, and ends at a look of the monitor with an event."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from flows.ab_test import evaluate_ab_tests, start_ab_test
from flows.monitor import monitor
from mlops.errors import RolloutRefused
from mlops.store import Phase, Verdict, get_rollout, get_route, get_version
from mlops.store.ab_tests import list_tests
from tasks import ab_tests
from tests.flows.deployable import Deployable
from tests.project import SERVICE, Place


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events that were emitted."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(ab_tests, "emit_event", lambda **event: events.append(event))
    return events


def test_a_test_is_begun_by_a_flow_and_ended_by_the_monitors_look(
    deployable: Deployable, heard: list[dict[str, Any]]
) -> None:
    place = deployable.place
    place.set(AB_TEST_MIN_DURATION_HOURS=26, AB_TEST_SIGNIFICANCE_THRESHOLD=0.1)
    champion = get_route(place.registry.store, SERVICE).champion
    begun = start_ab_test(
        deployable.challenger, champion, test_name="weekly", duration_hours=30, actor="anna"
    )
    assert (begun.model_a, begun.champion) == (deployable.challenger, champion)
    assert (begun.plan.planned_pairs, begun.plan.can_decide) == (6, False)
    (test,) = list_tests(place.registry.store)
    assert (test.alpha, test.min_until_bar - test.since_bar) == (0.1, timedelta(hours=1))
    with pytest.raises(RolloutRefused, match=begun.id):
        start_ab_test(champion, deployable.challenger)

    (answer,) = evaluate_ab_tests()
    assert (answer.verdict, answer.text) == (None, "No outcome is due yet.")

    result = monitor(now=begun.since_bar + timedelta(hours=31))
    (looked,) = result.tests
    assert (looked.ended, looked.test.verdict) == (True, Verdict.INCONCLUSIVE)
    (event,) = heard
    assert event["event"] == "mlops.ab_test.concluded"
    assert event["resource"] == {"prefect.resource.id": f"mlops.service.{SERVICE}"}
    assert (event["payload"]["test"], event["payload"]["winner"]) == (begun.id, None)
    assert (place.base / "reports" / "ab_tests" / f"{begun.id}.html").exists()
    run_id = get_version(place.registry.store, deployable.challenger).run_id
    client = place.registry.tracking.client
    kept = [row.path for row in client.list_artifacts(run_id, "ab_tests")]
    assert kept == [f"ab_tests/{begun.id}.html"]
    assert monitor(now=begun.since_bar + timedelta(hours=32)).tests == ()
    assert len(heard) == 1


@pytest.mark.slow
def test_what_passed_its_gates_is_tested_before_it_goes_live(project: Place) -> None:
    project.set(AB_TEST_CONFIDENCE_LEVEL=0.99)
    config = {"auto_deploy": True, "ab_test": {"duration_hours": 48, "traffic_split": 0.2}}
    result = project.train(deployment_config=config)
    store = project.registry.store
    (test,) = list_tests(store)
    assert (test.challenger_id, test.champion_is) == (result.model_id, "a")
    assert test.champion_id == get_route(store, SERVICE).champion != result.model_id
    assert (test.split_bp, test.alpha, test.requested_by) == (2000, 0.01, "train")
    # 48 hours cannot decide, so the test lasts as long as twenty weeks of pairs take.
    assert test.until_bar - test.since_bar > timedelta(weeks=20) - timedelta(hours=2)
    rollout = get_rollout(store, result.rollout_id)
    assert (rollout.id, rollout.phase) == (test.rollout_id, Phase.PENDING)
