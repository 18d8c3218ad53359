"""Recent bars become paired trials, once a rollout, and only of what both versions were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mlops.errors import ModelFault
from mlops.rollout.analysis import Conclusion, gather_evidence, judge_challenger
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.replay_trials import REPLAY_BARS
from mlops.serving.runtime import Runtime
from mlops.store.request_counts import Source, Tally
from tests.mlops.serving.conftest import KEY, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]


@pytest.fixture
def loading(runtime: Runtime, settle: Settle, library: Library, set_route: SetRoute) -> Runtime:
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, mirror_bp=10_000, salt="rollout-1")
    settle()
    return runtime


def replayed(runtime: Runtime) -> list[Tally]:
    route = runtime.store_sync.route_view().routes[KEY].route
    asyncio.run(runtime.replay.try_challenger(route))
    changes = runtime.counters.take_changes().get(KEY, [])
    return [tally for tally in changes if tally.source is Source.REPLAY]


def test_replayed_bars_alone_show_a_good_version_good(loading: Runtime) -> None:
    (tally,) = replayed(loading)
    assert (tally.scope, tally.challenger_faults) == ("rollout-1", 0)
    assert tally.challenger_trials > REPLAY_BARS - 10
    verdict = judge_challenger(gather_evidence([tally]), max_fault_rate=0.01)
    assert verdict.conclusion is Conclusion.GOOD


def test_bars_are_replayed_once_a_rollout(loading: Runtime) -> None:
    assert len(replayed(loading)) == 1
    assert replayed(loading) == []


def test_a_version_that_fails_one_replayed_bar_in_twenty_is_worse(
    loading: Runtime, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow, asked = loading.batcher.shadow, 0

    async def failing(model: LoadedModel, window: object) -> object:
        nonlocal asked
        if model.model_id == library.versions[1]:
            asked += 1
            if asked % 20 == 0:
                raise ModelFault(model.model_id, "error", "one in twenty")
        return await shadow(model, window)  # type: ignore[arg-type]

    monkeypatch.setattr(loading.batcher, "shadow", failing)
    (tally,) = replayed(loading)
    assert tally.challenger_faults >= 29
    assert (
        judge_challenger(gather_evidence([tally]), max_fault_rate=0.01).conclusion
        is Conclusion.WORSE
    )


def test_a_dropped_forecast_is_no_trial(loading: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    async def dropped(model: object, window: object) -> None:
        return None

    monkeypatch.setattr(loading.batcher, "shadow", dropped)
    assert replayed(loading) == []
