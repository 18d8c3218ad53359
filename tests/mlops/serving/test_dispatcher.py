"""Requests are dealt by the route and answered past a fault, which is counted where it belongs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mlops.data.calendar import load_calendar
from mlops.errors import ModelFault, NotReady, RequestRefused
from mlops.models.windows import Window, window_of
from mlops.serving.dispatcher import Answer
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.runtime import Runtime
from mlops.store.request_counts import Source, Tally
from tests.mlops.serving.conftest import KEY, SERVICE, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]
BARS = 400


def window(frame: pd.DataFrame, n: int = BARS) -> Window:
    return window_of(frame.iloc[-n:], SERVICE.timeframe, load_calendar("24/7"))


def ask(runtime: Runtime, frame: pd.DataFrame, n: int = BARS, **how: str) -> Answer:
    return asyncio.run(runtime.dispatcher.answer(KEY, [window(frame, n)], **how))


def tallies(runtime: Runtime) -> dict[tuple[str, Source], Tally]:
    changes = runtime.counters.take_changes().get(KEY, [])
    return {(tally.scope.partition(":")[0], tally.source): tally for tally in changes}


@pytest.fixture
def exposed(library: Library, set_route: SetRoute, settle: Settle) -> tuple[str, str]:
    """A champion, and a challenger with all the traffic."""
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, weight_bp=10_000, salt="rollout-1")
    settle()
    return champion, challenger


@pytest.fixture
def alone(library: Library, set_route: SetRoute, settle: Settle) -> str:
    """A champion without a challenger."""
    set_route(champion=library.versions[0])
    settle()
    return library.versions[0]


def break_model(runtime: Runtime, unlucky: set[str], patch: pytest.MonkeyPatch) -> None:
    forecast = runtime.batcher.forecast

    async def broken(model: LoadedModel, asked: Window, *, timeout_s: float) -> object:
        if model.model_id in unlucky:
            raise ModelFault(model.model_id, "error", "broken")
        return await forecast(model, asked, timeout_s=timeout_s)

    patch.setattr(runtime.batcher, "forecast", broken)


def test_the_forecast_is_the_bundles_own_for_the_last_bar(
    runtime: Runtime, alone: str, frame: pd.DataFrame
) -> None:
    answer = ask(runtime, frame)
    with runtime.pool.borrow(alone) as model:
        expected = model.bundle.predict(frame.iloc[-BARS:])["forecast"].iloc[-1]
    assert answer.forecasts == [pytest.approx(expected, abs=1e-6)]
    assert (answer.model_id, answer.variant) == (alone, "champion")


def test_a_challenger_with_all_the_traffic_answers(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame
) -> None:
    answer = ask(runtime, frame)
    assert (answer.model_id, answer.variant) == (exposed[1], "challenger")
    assert tallies(runtime)["rollout-1", Source.LIVE].challenger_trials == 1


def test_the_champion_answers_where_the_challenger_fails(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_model(runtime, {exposed[1]}, monkeypatch)
    assert ask(runtime, frame).variant == "champion"
    counted = tallies(runtime)["rollout-1", Source.LIVE]
    assert (counted.challenger_trials, counted.challenger_faults) == (1, 1)
    assert counted.champion_trials == 0


def test_the_baseline_answers_where_the_champion_fails_which_is_counted(
    runtime: Runtime, alone: str, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_model(runtime, {alone}, monkeypatch)
    assert ask(runtime, frame).variant == "baseline"
    counted = tallies(runtime)["champion", Source.LIVE]
    assert (counted.champion_trials, counted.champion_faults) == (1, 1)


def test_a_request_that_no_version_answers_is_no_fault(
    runtime: Runtime, exposed: tuple[str, str], library: Library, frame: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    break_model(runtime, {*exposed, library.baseline}, monkeypatch)
    with pytest.raises(ModelFault):
        ask(runtime, frame)
    assert tallies(runtime) == {}


def test_a_challenger_that_needs_more_bars_than_clients_send_is_at_fault(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame
) -> None:
    enough_for_the_champion = runtime.pool.warm_up(exposed[0])
    assert enough_for_the_champion < runtime.pool.warm_up(exposed[1])
    assert ask(runtime, frame, enough_for_the_champion).variant == "champion"
    assert tallies(runtime)["rollout-1", Source.LIVE].detail == {"too_few_bars": 1}


def test_a_preview_is_asked_alone_and_not_counted(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame
) -> None:
    assert ask(runtime, frame, pinned="challenger").model_id == exposed[1]
    assert ask(runtime, frame, pinned=exposed[0]).model_id == exposed[0]
    assert tallies(runtime) == {}
    with pytest.raises(RequestRefused, match="not loaded in this replica"):
        ask(runtime, frame, pinned="nobody")


def test_a_challenger_with_an_expired_share_gets_no_requests(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid_until = runtime.store_sync.route_view().routes[KEY].valid_until
    monkeypatch.setattr("mlops.serving.route_view.time.monotonic", lambda: valid_until + 1)
    assert ask(runtime, frame).variant == "champion"


def test_a_mirrored_request_is_forecast_by_the_challenger_too(
    runtime: Runtime, library: Library, set_route: SetRoute, settle: Settle, frame: pd.DataFrame
) -> None:
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, mirror_bp=10_000, salt="rollout-2")
    settle()

    async def mirrored() -> Answer:
        answer = await runtime.dispatcher.answer(KEY, [window(frame)])
        await asyncio.gather(*runtime.dispatcher._mirrors)
        return answer

    assert asyncio.run(mirrored()).variant == "champion"
    counted = tallies(runtime)["rollout-2", Source.MIRROR]
    assert (counted.champion_trials, counted.challenger_trials) == (1, 1)


def test_one_key_stays_with_one_version(
    runtime: Runtime, library: Library, set_route: SetRoute, settle: Settle, frame: pd.DataFrame
) -> None:
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, weight_bp=5_000, salt="rollout-3")
    settle()
    first = [ask(runtime, frame, key=f"client-{n}").variant for n in range(40)]
    again = [ask(runtime, frame, key=f"client-{n}").variant for n in range(40)]
    assert first == again
    assert len(set(first)) == 2


def test_without_a_ready_version_the_answer_is_not_ready(
    runtime: Runtime, frame: pd.DataFrame
) -> None:
    runtime.store_sync.sync_once()
    with pytest.raises(NotReady):
        ask(runtime, frame)
    with pytest.raises(RequestRefused, match="no service 'other' is live"):
        asyncio.run(runtime.dispatcher.answer("other", [window(frame)]))


def test_many_windows_are_answered_in_their_order(
    runtime: Runtime, alone: str, frame: pd.DataFrame
) -> None:
    ends = range(BARS, BARS + 20)
    windows = [
        window_of(frame.iloc[end - BARS : end], SERVICE.timeframe, load_calendar("24/7"))
        for end in ends
    ]
    answer = asyncio.run(runtime.dispatcher.answer(KEY, windows))
    with runtime.pool.borrow(alone) as model:
        every = model.bundle.predict(frame)["forecast"]
    expected = [every.loc[frame.index[end - 1]] for end in ends]
    assert np.allclose(answer.forecasts, expected, atol=1e-6)


def test_each_fault_is_a_metric_by_version_and_kind(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_model(runtime, set(exposed), monkeypatch)
    ask(runtime, frame)
    text = runtime.metrics.render().decode()
    for model_id in exposed:
        labels = f'kind="error",model_id="{model_id}",service="{KEY}"'
        assert f"mlops_model_faults_total{{{labels}}} 1.0" in text
