"""Versions go live and back by the platform's calls, with MLflow down and nothing serving."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from mlops.errors import (
    BundleError,
    RolloutError,
    RolloutRefused,
    ServiceNotFound,
    SettingsError,
    VersionNotFound,
)
from mlops.manager import MLOpsManager
from mlops.rollout.plan import ab_test_plan
from mlops.rollout.request import request_test
from mlops.settings import Settings
from mlops.store import Phase, Status, Verdict, Why, get_route, get_test
from tests.mlops.rollout.rows import make_test
from tests.mlops.serving.conftest import KEY, Library, library, library_once
from tests.replicas import acknowledging

__all__ = ["library", "library_once"]

NOBODY = "http://127.0.0.1:9"
QUICK: dict[str, Any] = {"dwell_s": 0, "bake_s": 0}
ANNA = {"actor": "anna", "reason": "it is better"}


@pytest.fixture
def manager(library: Library, tmp_path: Path) -> Iterator[MLOpsManager]:
    """A manager of the library whose MLflow is down."""
    library.registry.store.close()
    config = Settings(
        _env_file=None,
        mlops_base_path=library.folder,
        store_url=f"sqlite:///{tmp_path / 'store.db'}",
        mlflow_tracking_uri=NOBODY,
        health_check_timeout=20,
    )
    opened = MLOpsManager(config)
    with closing(opened.store):
        yield opened


def deploy(manager: MLOpsManager, model_id: str, strategy: str = "blue_green", **more: Any) -> bool:
    return asyncio.run(manager.deploy_model(model_id, strategy, **QUICK, **more))


def champion(manager: MLOpsManager) -> str:
    route = get_route(manager.store, KEY)
    assert route is not None
    return route.champion


def test_a_notebook_takes_a_version_live_while_mlflow_is_down(
    manager: MLOpsManager, library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    assert deploy(manager, library.versions[0], "canary") is True
    assert champion(manager) == library.versions[0]
    assert f"nobody answers at {NOBODY}" in caplog.text


def test_a_failing_version_is_undone_and_the_log_says_why(
    manager: MLOpsManager, library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    before = champion(manager)
    with acknowledging(manager.store, faults=500):
        assert deploy(manager, library.versions[0], "canary") is False
    assert champion(manager) == before
    assert f"{library.versions[0]} is not live" in caplog.text
    assert "worse than the champion: 500 faults" in caplog.text


class Pager:
    def __init__(self) -> None:
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()

    async def send_alert(self, alert_data: dict[str, Any]) -> None:
        self.told.put(alert_data)


def test_a_handler_is_told_of_a_version_that_was_undone(
    manager: MLOpsManager, library: Library
) -> None:
    pager = Pager()
    manager.add_alert_handler(pager)
    with acknowledging(manager.store, faults=500):
        deploy(manager, library.versions[0], "canary")
    told = pager.told.get(timeout=20)
    manager.alert_sender.stop()
    assert (told["condition"], told["service"]) == ("deployment_failed", KEY)
    assert library.versions[0] in told["title"]
    assert [one.id for one in manager.alerts(KEY, lasting_only=True)] == [told["id"]]


def test_an_object_without_send_alert_is_refused_as_handler(manager: MLOpsManager) -> None:
    with pytest.raises(SettingsError, match="no send_alert"):
        manager.add_alert_handler(object())
    manager.alert_sender.stop()


def test_a_shadow_rollout_does_not_make_its_version_champion(
    manager: MLOpsManager, library: Library
) -> None:
    with acknowledging(manager.store):
        assert deploy(manager, library.versions[0], "shadow") is False
    (row,) = manager.rollouts(KEY)
    assert (row.phase, champion(manager)) == (Phase.DONE, library.baseline)


def test_a_deployment_is_refused_while_an_ab_test_runs_unless_it_ends_the_test(
    manager: MLOpsManager, library: Library
) -> None:
    first, second = library.versions[:2]
    test = make_test(service=KEY, champion_id=library.baseline, challenger_id=first)
    plan = ab_test_plan(test.split_bp, duration_s=3600.0)
    request_test(manager.store, test, plan, Why(datetime.now(UTC), **ANNA))
    with pytest.raises(RolloutRefused, match=test.id):
        deploy(manager, second, wait=False)
    assert deploy(manager, second, wait=False, end_test=True) is False
    assert get_test(manager.store, test.id).verdict is Verdict.STOPPED
    open_rows = [row for row in manager.rollouts(KEY) if not row.phase.final]
    assert [(row.to_version, row.phase) for row in open_rows] == [(second, Phase.PENDING)]


def test_without_wait_a_rollout_is_requested_and_can_be_followed(
    manager: MLOpsManager, library: Library
) -> None:
    assert deploy(manager, library.versions[0], wait=False, **ANNA) is False
    (row,) = manager.rollouts()
    assert (row.phase, row.requested_by) == (Phase.PENDING, "anna")
    with acknowledging(manager.store):
        ended = asyncio.run(manager.follow_rollout(row.id))
    assert ended.phase is Phase.DONE


def test_an_aborted_rollout_is_undone_before_the_call_returns(
    manager: MLOpsManager, library: Library
) -> None:
    deploy(manager, library.versions[0], wait=False)
    (row,) = manager.rollouts()
    ended = asyncio.run(manager.abort_rollout(row.id, actor="anna", reason="not today"))
    assert (ended.phase, ended.reason) == (Phase.FAILED, "aborted by anna: not today")
    with pytest.raises(RolloutError, match="ended as failed"):
        asyncio.run(manager.abort_rollout(row.id, actor="anna", reason="again"))


def test_a_cancelled_wait_leaves_the_rollout_to_others(
    manager: MLOpsManager, library: Library
) -> None:
    async def impatient() -> None:
        call = manager.deploy_model(library.versions[0], dwell_s=3600)
        await asyncio.wait_for(call, timeout=2)

    with acknowledging(manager.store):
        with pytest.raises(TimeoutError):
            asyncio.run(impatient())
        (row,) = manager.rollouts()
        assert not row.phase.final
        asyncio.run(manager.abort_rollout(row.id, actor="anna", reason="tidy up"))


def test_only_what_exists_and_passed_may_go_live(manager: MLOpsManager, library: Library) -> None:
    with pytest.raises(VersionNotFound):
        deploy(manager, "lstm_BTC_20241205_120000")
    with pytest.raises(RolloutRefused, match=r"is the champion of .* already"):
        deploy(manager, library.baseline)
    with pytest.raises(RolloutError, match="deployment_strategy='big_bang' is not one of"):
        deploy(manager, library.versions[0], "big_bang")
    with pytest.raises(RolloutError, match="no setting 'speed'"):
        deploy(manager, library.versions[0], speed=3)
    assert manager.rollouts() == ()


def test_a_rollback_makes_the_previous_champion_live(
    manager: MLOpsManager, library: Library
) -> None:
    first, second = library.versions
    with acknowledging(manager.store):
        assert deploy(manager, first)
        assert deploy(manager, second)
        back = asyncio.run(manager.rollback_model(KEY, actor="anna", reason="worse in Asia"))
    assert back.champion == champion(manager) == first
    assert manager.get_model(first).status is Status.DEPLOYED
    assert manager.get_model(second).status is Status.RETIRED
    last = manager.live_history(KEY)[-1]
    assert (last.action, last.actor, last.reason) == ("roll_back", "anna", "worse in Asia")


@pytest.mark.slow
def test_a_rollback_to_a_version_that_does_not_load_is_refused(
    manager: MLOpsManager, library: Library, tmp_path: Path
) -> None:
    first, second = library.versions
    with acknowledging(manager.store):
        deploy(manager, first)
        deploy(manager, second)
        bundle = Path(urlparse(manager.get_model(first).bundle_uri).path)
        weights = bundle / "weights.safetensors"
        kept = weights.read_bytes()
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        try:
            with pytest.raises(BundleError):
                asyncio.run(manager.rollback_model(KEY, actor="anna", reason="back"))
        finally:
            weights.write_bytes(kept)
    assert champion(manager) == second


def test_only_the_champion_can_be_rolled_back(manager: MLOpsManager, library: Library) -> None:
    with pytest.raises(RolloutError, match=f"is not live on {KEY}, {library.baseline} is"):
        asyncio.run(manager.rollback_model(library.versions[0], actor="anna", reason="back"))
    with pytest.raises(RolloutError, match="there is nothing before it"):
        asyncio.run(manager.rollback_model(library.baseline, actor="anna", reason="back"))
    with pytest.raises(ServiceNotFound, match="has not begun"):
        asyncio.run(manager.rollback_model("no.such.1h.return.1", actor="anna", reason="back"))


def test_who_was_live_depends_on_the_time_asked_for(
    manager: MLOpsManager, library: Library
) -> None:
    with acknowledging(manager.store):
        deploy(manager, library.versions[0])
    history = manager.live_history(KEY)
    champions = [reign.champion for reign in history]
    assert champions[0] == library.baseline
    assert champions[-1] == library.versions[0]
    for reign in history[1:]:
        found = manager.who_was_live(KEY, reign.at)
        assert found is not None
        assert found.at == reign.at
    assert manager.who_was_live(KEY, history[0].at - timedelta(seconds=1)) is None
    now = manager.who_was_live(KEY, datetime.now(UTC))
    assert now is not None
    assert now.champion == library.versions[0]


@pytest.mark.timing
def test_mirroring_to_an_mlflow_that_is_down_takes_seconds(
    manager: MLOpsManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    began = time.monotonic()
    manager.deployer.mirror_to_mlflow(KEY)
    assert time.monotonic() - began < 5
    assert "MLFLOW_TRACKING_URI" in caplog.text
