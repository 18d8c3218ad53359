"""Challengers are tried on recent bars once a rollout, failing champions on inputs of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mlops.errors import ModelFault
from mlops.models.windows import Window
from mlops.rollout.analysis import Conclusion, gather_evidence, judge_challenger
from mlops.rollout.fallback import WINDOW_S
from mlops.serving.engine.model_pool import LoadedModel
from mlops.serving.replay_trials import OWN_BARS, OWN_EVERY_S, REPLAY_BARS
from mlops.serving.request_counters import Try
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
    changes = runtime.counters.take_evidence().get(KEY, [])
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


# A champion that fails on requests ---------------------------------------------------------------

GOLDEN = 3
Shadow = Callable[[LoadedModel, Window], Awaitable[object]]


class Champion:
    """A champion alone, in a replica whose clock stands still unless moved."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.now = runtime.counters.clock()
        runtime.counters.clock = lambda: self.now
        self.route = runtime.dispatcher.route_state(KEY).route

    def fail_on_a_request(self) -> None:
        tries = [Try(self.route.champion, 0.001, "error"), Try(self.route.baseline, 0.001)]
        self.runtime.counters.count_request(self.route, tries)

    def try_inputs_of_our_own(self) -> Tally | None:
        """The newest result; None where none was put."""
        asyncio.run(self.runtime.own_inputs.try_champion(self.route))
        changes = self.runtime.counters.take_evidence().get(KEY, [])
        own = [tally for tally in changes if tally.source is Source.REPLAY]
        return own[0] if own else None


@pytest.fixture
def champion(runtime: Runtime, settle: Settle, library: Library, set_route: SetRoute) -> Champion:
    set_route(champion=library.versions[0])
    settle()
    return Champion(runtime)


def fail_on(runtime: Runtime, patch: pytest.MonkeyPatch, wrong: Callable[[Window], bool]) -> None:
    shadow: Shadow = runtime.batcher.shadow

    async def failing(model: LoadedModel, window: Window) -> object:
        if wrong(window):
            raise ModelFault(model.model_id, "error", "these bars")
        return await shadow(model, window)

    patch.setattr(runtime.batcher, "shadow", failing)


def test_a_champion_is_not_tried_while_requests_do_not_fail(champion: Champion) -> None:
    assert champion.try_inputs_of_our_own() is None


def test_a_sound_champion_passes_its_golden_examples_and_the_newest_bars(
    champion: Champion,
) -> None:
    champion.fail_on_a_request()
    own = champion.try_inputs_of_our_own()
    assert own is not None
    assert (own.champion_trials, own.champion_faults) == (GOLDEN + OWN_BARS, 0)


def test_a_champion_that_fails_on_the_newest_bars_fails_though_it_passes_its_golden_examples(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with champion.runtime.pool.borrow(champion.route.champion) as model:
        known = {example.bars.index[-1].asm8 for example in model.bundle.examples()}
    fail_on(champion.runtime, monkeypatch, lambda window: window.open_time[-1] not in known)
    champion.fail_on_a_request()
    own = champion.try_inputs_of_our_own()
    assert own is not None
    # The newest bar of all is a golden example in this library.
    assert own.champion_trials == GOLDEN + OWN_BARS
    assert own.detail == {"error": OWN_BARS - 1}


def test_a_champion_that_forecasts_something_else_from_its_golden_examples_fails(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.models.golden.RELATIVE_TOLERANCE", -1.0)
    champion.fail_on_a_request()
    own = champion.try_inputs_of_our_own()
    assert own is not None
    assert own.detail == {"golden": GOLDEN}


def test_the_check_is_repeated_while_requests_go_on_failing(champion: Champion) -> None:
    champion.fail_on_a_request()
    assert champion.try_inputs_of_our_own() is not None
    assert champion.try_inputs_of_our_own() is None
    champion.now += OWN_EVERY_S
    assert champion.try_inputs_of_our_own() is not None
    champion.now += WINDOW_S + 1
    assert champion.try_inputs_of_our_own() is None


def test_an_input_that_was_dropped_under_load_shows_no_champion_sound(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow, asked = champion.runtime.batcher.shadow, 0

    async def dropping(model: LoadedModel, window: Window) -> object:
        nonlocal asked
        asked += 1
        return None if asked == 2 else await shadow(model, window)

    monkeypatch.setattr(champion.runtime.batcher, "shadow", dropping)
    champion.fail_on_a_request()
    assert champion.try_inputs_of_our_own() is None


def test_without_bars_of_the_market_the_golden_examples_are_tried(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champion.runtime.own_inputs.bars, "load", lambda *_: None)
    champion.fail_on_a_request()
    own = champion.try_inputs_of_our_own()
    assert own is not None
    assert own.champion_trials == GOLDEN


def test_a_bundle_that_is_away_speaks_against_no_champion(
    champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(path: Path) -> bytes:
        raise OSError(f"{path} is not mounted")

    monkeypatch.setattr(Path, "read_bytes", away)
    champion.fail_on_a_request()
    own = champion.try_inputs_of_our_own()
    assert own is not None
    assert (own.champion_trials, own.champion_faults) == (OWN_BARS, 0)
