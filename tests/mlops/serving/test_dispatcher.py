"""Requests are dealt by the route and answered past a fault, which is counted where it belongs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops.data.calendar import load_calendar
from mlops.errors import ModelFault, NotReady, QueueFull, RequestRefused
from mlops.models.windows import Window, window_of
from mlops.serving.dispatcher import Answer, fit_windows
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.request_counters import TooShort
from mlops.serving.runtime import Runtime
from mlops.store.request_counts import Source, Tally, Traffic
from tests.mlops.serving.conftest import KEY, SERVICE, Library

Settle = Callable[[], None]
SetRoute = Callable[..., None]
BARS = 400


def window(frame: pd.DataFrame, n: int = BARS) -> Window:
    return window_of(frame.iloc[-n:], SERVICE.timeframe, load_calendar("24/7"))


def ask(runtime: Runtime, frame: pd.DataFrame, n: int = BARS, **how: str) -> Answer:
    return asyncio.run(runtime.dispatcher.answer(KEY, [window(frame, n)], **how))


def tallies(runtime: Runtime) -> dict[tuple[str, Source], Tally]:
    changes = runtime.counters.take_evidence().get(KEY, [])
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


def traffic_of(runtime: Runtime) -> dict[str, Traffic]:
    return {row.model_id: row.traffic for row in runtime.counters.take_traffic()}


def break_model(
    runtime: Runtime,
    unlucky: Collection[str],
    patch: pytest.MonkeyPatch,
    error: Exception | None = None,
) -> None:
    forecast = runtime.batcher.forecast

    async def broken(model: LoadedModel, asked: Window, **options: Any) -> object:
        if model.model_id in unlucky:
            raise error or ModelFault(model.model_id, "error", "broken")
        return await forecast(model, asked, **options)

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


def test_what_no_version_can_compute_is_refused_and_counted_nowhere(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    break_model(runtime, runtime.pool.ready(), monkeypatch)
    with pytest.raises(RequestRefused, match="no version of this service can") as refused:
        ask(runtime, frame, key="stranger")
    assert (refused.value.status, refused.value.code) == (400, "INVALID_PARAMETER_VALUE")
    assert tallies(runtime) == {}
    assert traffic_of(runtime) == {}
    assert "mlops_model_faults_total{" not in runtime.metrics.render().decode()
    assert caplog.records == []


def test_a_time_out_of_every_version_is_traffic_and_no_trial(
    runtime: Runtime, alone: str, library: Library, frame: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    late = ModelFault(alone, "timeout", "late")
    break_model(runtime, {alone, library.baseline}, monkeypatch, late)
    with pytest.raises(ModelFault, match="timeout"):
        ask(runtime, frame)
    assert tallies(runtime) == {}
    assert {model_id: t.faults for model_id, t in traffic_of(runtime).items()} == {
        alone: 1,
        library.baseline: 1,
    }


def test_one_bad_window_of_a_batch_decides_for_all(
    runtime: Runtime, alone: str, library: Library, frame: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    forecast, bad = runtime.batcher.forecast, window(frame, 300)

    async def broken(model: LoadedModel, asked: Window, **options: Any) -> object:
        if asked.values[-1, 4] == bad.values[-1, 4] and len(asked) != 1:
            raise ModelFault(model.model_id, "error", "broken")
        return await forecast(model, asked, **options)

    monkeypatch.setattr(runtime.batcher, "forecast", broken)
    good = window(frame.iloc[:-1])
    with pytest.raises(RequestRefused):
        asyncio.run(runtime.dispatcher.answer(KEY, [good, bad, good]))
    assert tallies(runtime) == {}


# Too few bars ------------------------------------------------------------------------------------


def holed(frame: pd.DataFrame, bars_since: int) -> Window:
    """A window with a hole before its last bars."""
    whole = window(frame)
    holes = whole.hole_before.copy()
    holes[-bars_since] = True
    return Window(whole.values, whole.open_time, holes)


def test_the_champion_answers_where_the_challenger_needs_more_bars_which_is_no_trial(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame
) -> None:
    enough, needed = (runtime.pool.warm_up(model_id) for model_id in exposed)
    assert enough < needed
    assert ask(runtime, frame, enough).variant == "champion"
    assert ask(runtime, frame, needed).variant == "challenger"
    found = tallies(runtime)
    counted = found["rollout-1", Source.LIVE]
    assert (counted.challenger_trials, counted.challenger_faults) == (1, 0)
    assert set(counted.detail) == set()
    short = found["dealt", Source.LIVE]
    assert (short.challenger_trials, short.challenger_faults) == (2, 1)
    assert short.detail == {"too_few_bars": 1, "offered": enough, "needed": needed}
    assert traffic_of(runtime)[exposed[1]].faults == 0


def test_one_short_window_of_a_batch_decides_for_all(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame
) -> None:
    windows = [window(frame), window(frame, runtime.pool.warm_up(exposed[0]))]
    answer = asyncio.run(runtime.dispatcher.answer(KEY, windows))
    assert answer.variant == "champion"


def test_a_hole_in_the_sequence_that_a_version_reads_is_no_fault_of_it(
    runtime: Runtime, alone: str, frame: pd.DataFrame
) -> None:
    with runtime.pool.borrow(alone) as model:
        assert fit_windows(model, [holed(frame, 2)]) == TooShort(2, 3, has_gap=True)
        fitted = fit_windows(model, [holed(frame, 3)])
    assert not isinstance(fitted, TooShort)
    asyncio.run(runtime.dispatcher.answer(KEY, [holed(frame, 3)]))
    answer = asyncio.run(runtime.dispatcher.answer(KEY, [holed(frame, 2)]))
    assert answer.variant == "baseline"
    counted = tallies(runtime)["champion", Source.LIVE]
    assert (counted.champion_trials, counted.champion_faults) == (1, 0)


def test_a_version_that_reads_the_clock_is_not_asked_with_made_up_times(
    runtime: Runtime, alone: str, frame: pd.DataFrame
) -> None:
    timed = window(frame)
    untimed = replace(timed, timed=False)
    with runtime.pool.borrow(alone) as model:
        assert not isinstance(fit_windows(model, [untimed]), TooShort)
        clocked = replace(model, needs_clock=True)
        assert not isinstance(fit_windows(clocked, [timed]), TooShort)
        missing = fit_windows(clocked, [untimed])
    assert missing == TooShort(0, clocked.warm_up)
    assert "send open_time" in str(missing)


def test_bars_that_are_too_few_for_every_version_are_refused(
    runtime: Runtime, alone: str, frame: pd.DataFrame
) -> None:
    with pytest.raises(RequestRefused, match=r"needs \d+ bars and got 2; send more history"):
        ask(runtime, frame, 2)


def test_a_pinned_version_that_needs_more_bars_says_how_many(
    runtime: Runtime, exposed: tuple[str, str], frame: pd.DataFrame
) -> None:
    enough, needed = (runtime.pool.warm_up(model_id) for model_id in exposed)
    with pytest.raises(RequestRefused, match=f"needs {needed} bars and got {enough}") as refused:
        ask(runtime, frame, enough, pinned=exposed[1])
    assert refused.value.status == 400


# Pinned ------------------------------------------------------------------------------------------


def test_a_pinned_version_that_cannot_compute_is_a_refusal_and_counted_nowhere(
    runtime: Runtime, alone: str, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_model(runtime, {alone}, monkeypatch)
    with pytest.raises(RequestRefused, match="can make no forecast from these bars") as refused:
        ask(runtime, frame, pinned=alone)
    assert refused.value.status == 400
    assert (tallies(runtime), traffic_of(runtime)) == ({}, {})


def test_a_version_of_another_service_cannot_be_pinned(
    runtime: Runtime, exposed: tuple[str, str], library: Library, frame: pd.DataFrame
) -> None:
    runtime.store_sync.versions[exposed[1]] = replace(
        runtime.store_sync.versions[exposed[1]], service="another"
    )
    with pytest.raises(
        RequestRefused, match=r"is not loaded in this replica; loaded: (\S+, )*"
    ) as no:
        ask(runtime, frame, pinned=exposed[1])
    assert no.value.status == 404
    named = str(no.value).partition("loaded: ")[2].split(", ")
    assert named == sorted([exposed[0], library.baseline])
    route = runtime.dispatcher.route_state(KEY).route
    with pytest.raises(RequestRefused):
        runtime.dispatcher.resolve_pinned(route, exposed[1])
    assert runtime.dispatcher.resolve_pinned(route, "nobody") == "nobody"


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


@pytest.fixture
def mirrored(library: Library, set_route: SetRoute, settle: Settle) -> tuple[str, str]:
    """A champion that answers all requests, which the challenger is given too."""
    champion, challenger = library.versions
    set_route(champion=champion, challenger=challenger, mirror_bp=10_000, salt="rollout-2")
    settle()
    return champion, challenger


def ask_and_mirror(runtime: Runtime, asked: Window) -> Answer:
    async def answer() -> Answer:
        answer = await runtime.dispatcher.answer(KEY, [asked])
        await asyncio.gather(*runtime.dispatcher._mirrors)
        return answer

    return asyncio.run(answer())


def test_a_mirrored_request_is_forecast_by_the_challenger_too(
    runtime: Runtime, mirrored: tuple[str, str], frame: pd.DataFrame
) -> None:
    assert ask_and_mirror(runtime, window(frame)).variant == "champion"
    counted = tallies(runtime)["rollout-2", Source.MIRROR]
    assert (counted.champion_trials, counted.challenger_trials) == (1, 1)


@pytest.mark.parametrize("champion_fails", [False, True])
def test_a_mirrored_input_that_both_versions_fail_is_no_fault_of_the_challenger(
    runtime: Runtime, mirrored: tuple[str, str], frame: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch, champion_fails: bool,
) -> None:  # fmt: skip
    break_model(runtime, {mirrored[0]} if champion_fails else (), monkeypatch)

    async def failing(model: LoadedModel, asked: Window) -> object:
        raise ModelFault(model.model_id, "error", "broken")

    monkeypatch.setattr(runtime.batcher, "shadow", failing)
    ask_and_mirror(runtime, window(frame))
    counted = tallies(runtime)["rollout-2", Source.MIRROR]
    assert (counted.challenger_trials, counted.challenger_faults) == (1, not champion_fails)


def test_a_mirrored_request_with_too_few_bars_is_no_trial(
    runtime: Runtime, mirrored: tuple[str, str], frame: pd.DataFrame
) -> None:
    ask_and_mirror(runtime, window(frame, runtime.pool.warm_up(mirrored[0])))
    found = tallies(runtime)
    assert ("rollout-2", Source.MIRROR) not in found
    assert found["dealt", Source.LIVE].challenger_faults == 1


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


# Traffic -----------------------------------------------------------------------------------------


def test_an_answer_and_its_time_are_the_versions_that_gave_it(
    runtime: Runtime, frame: pd.DataFrame, alone: str
) -> None:
    ask(runtime, frame)
    traffic = traffic_of(runtime)
    assert set(traffic) == {alone}
    assert (traffic[alone].requests, traffic[alone].failed) == (1, 0)
    assert traffic[alone].seconds > 0


def test_a_fault_is_counted_where_it_was_and_the_answer_where_it_came_from(
    runtime: Runtime, frame: pd.DataFrame, alone: str, library: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    break_model(runtime, {alone}, monkeypatch)
    ask(runtime, frame)
    traffic = traffic_of(runtime)
    assert (traffic[alone].requests, traffic[alone].faults) == (1, 1)
    assert (traffic[library.baseline].requests, traffic[library.baseline].faults) == (1, 0)


def test_a_full_queue_turns_away_and_takes_no_time(
    runtime: Runtime, frame: pd.DataFrame, alone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_model(runtime, {alone}, monkeypatch, QueueFull(waiting=9, limit=9))
    with pytest.raises(QueueFull):
        ask(runtime, frame)
    assert traffic_of(runtime) == {alone: Traffic(requests=1, turned_away=1)}


def test_a_request_with_no_loaded_version_is_turned_away_from_the_champion(
    runtime: Runtime, frame: pd.DataFrame, library: Library, set_route: SetRoute
) -> None:
    set_route(champion=library.versions[0])
    runtime.store_sync.sync_once()
    with pytest.raises(NotReady):
        ask(runtime, frame)
    assert traffic_of(runtime) == {library.versions[0]: Traffic(requests=1, turned_away=1)}


def test_a_preview_is_not_traffic(runtime: Runtime, frame: pd.DataFrame, alone: str) -> None:
    ask(runtime, frame, pinned=alone)
    assert traffic_of(runtime) == {}
