"""What waits together is forecast together, and nobody's trouble is anybody else's."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from mlops.errors import ModelFault, NotFinite, QueueFull, ServingError, TimedOut
from mlops.serving.engine import batcher as batcher_module
from mlops.serving.engine.batcher import SLICE_S, Batcher
from tests.mlops.serving.engine.crowd import (
    LONG_S,
    WARM_UP,
    Crowd,
    Doubler,
    entered,
    know,
    model_of,
    play,
    running,
    window,
)


def test_a_lone_client_is_answered_one_by_one(bundle, model):
    async def ask_in_turn() -> list[float]:
        return [
            float((await batcher.forecast(model, window(mark), timeout_s=LONG_S))[-1])
            for mark in range(5)
        ]

    with running() as batcher:
        assert asyncio.run(ask_in_turn()) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert [len(batch) for batch in bundle.batches] == [1] * 5


def test_windows_that_arrive_while_the_thread_is_busy_are_one_batch(bundle, model):
    async def story(crowd: Crowd) -> None:
        await crowd.ask(*range(1, 21))
        answers = await crowd.release()
        assert [answer[-1] for answer in answers] == [2.0 * mark for mark in range(21)]

    batcher = play(story, bundle, model)
    assert [len(batch) for batch in bundle.batches] == [1, 20]
    assert dict(batcher.statistics().sizes) == {1: 1, 20: 1}


def test_a_batch_holds_at_most_the_cap(bundle, model):
    async def story(crowd: Crowd) -> None:
        await crowd.ask(*range(100))
        await crowd.release()

    play(story, bundle, model)
    assert max(len(batch) for batch in bundle.batches) <= 32


def test_the_cap_counts_forecasts_and_not_requests(bundle, model):
    async def story(crowd: Crowd) -> None:
        await crowd.ask(1, 2, bars=WARM_UP + 14)
        await crowd.ask(3, bars=WARM_UP + 99)
        await crowd.ask(4)
        await crowd.release()

    play(story, bundle, model)
    assert bundle.batches[1:] == [[1.0, 2.0], [3.0], [4.0]]


def test_without_batching_each_goes_alone(bundle, model):
    async def story(crowd: Crowd) -> None:
        await crowd.ask(*range(10))
        await crowd.release()

    play(story, bundle, model, batching=False)
    assert [len(batch) for batch in bundle.batches] == [1] * 11


def test_models_are_not_mixed_and_the_oldest_goes_first(bundle, model):
    other_bundle = Doubler()
    other = model_of(other_bundle, "lstm_b")

    async def story(crowd: Crowd) -> None:
        await crowd.ask(1)
        await crowd.ask(2, model=other)
        await crowd.ask(3)
        await crowd.release()

    play(story, bundle, model)
    assert (bundle.batches, other_bundle.batches) == ([[0.0], [1.0, 3.0]], [[2.0]])


def test_only_the_window_that_raises_gets_the_error(bundle, model):
    bundle.poison[3.0] = ValueError("bad luck")

    async def story(crowd: Crowd) -> None:
        await crowd.ask(1, 2, 3, 4)
        answers = await crowd.release()
        fault = answers.pop(3)
        assert isinstance(fault, ModelFault)
        assert (fault.model_id, fault.kind) == ("lstm_a", "error")
        assert "ValueError: bad luck" in str(fault)
        assert [answer[-1] for answer in answers] == [0.0, 2.0, 4.0, 8.0]

    play(story, bundle, model)


def test_an_answer_that_is_no_number_is_a_fault_of_its_kind(bundle, model):
    bundle.poison[1.0] = NotFinite("nan")

    async def story(crowd: Crowd) -> None:
        await crowd.ask(1)
        answers = await crowd.release()
        assert answers[1].kind == "non_finite"

    play(story, bundle, model)


def test_a_model_that_exits_does_not_take_the_thread_with_it(bundle, model):
    bundle.poison[1.0] = SystemExit(3)

    async def story(crowd: Crowd) -> None:
        await crowd.ask(1, 2)
        answers = await crowd.release()
        assert isinstance(answers[1], ModelFault)
        assert answers[2][-1] == 4.0

    assert play(story, bundle, model).statistics().restarts == 0


def test_a_cancelled_item_is_left_out_of_its_batch(bundle, model):
    async def story(crowd: Crowd) -> None:
        [gone] = await crowd.ask(1)
        await crowd.ask(2)
        gone.cancel()
        answers = await crowd.release()
        assert isinstance(answers[1], asyncio.CancelledError)
        assert answers[2][-1] == 4.0

    play(story, bundle, model)
    assert bundle.batches[1:] == [[2.0]]


def test_an_item_cancelled_during_its_forecast_does_not_stop_the_next(bundle, model):
    async def story(crowd: Crowd) -> None:
        crowd.tasks[0].cancel()
        await crowd.ask(1)
        answers = await crowd.release()
        assert answers[1][-1] == 2.0

    play(story, bundle, model)


def test_a_full_queue_refuses_and_a_cancelled_item_makes_room(bundle, model):
    async def story(crowd: Crowd) -> None:
        first, _ = await crowd.ask(1, 2)
        with pytest.raises(QueueFull, match="2 windows are waiting, at most 2"):
            await crowd.batcher.forecast(model, window(3), timeout_s=LONG_S)
        first.cancel()
        await asyncio.sleep(0)
        await crowd.ask(4)
        answers = await crowd.release()
        assert [answer[-1] for answer in answers[2:]] == [4.0, 8.0]

    play(story, bundle, model, limit=2)


def test_an_item_out_of_time_in_the_queue_is_dropped(bundle, model):
    async def story(crowd: Crowd) -> None:
        with pytest.raises(TimedOut, match=r"no answer within 0.05 s"):
            await crowd.batcher.forecast(model, window(1), timeout_s=0.05)
        assert crowd.batcher.statistics().waiting == 0
        await crowd.release()

    play(story, bundle, model)
    assert bundle.batches == [[0.0]]


def test_the_thread_leaves_out_items_past_their_deadline(model):
    """Even where the event loop is too busy to see that time is up."""

    async def story() -> None:
        batcher = Batcher()
        know(batcher, model)
        lane = batcher._single
        items = [batcher._make_item(lane, None, model, window(mark), 5.0) for mark in range(3)]
        items[1].asked_at -= 6.0
        for item in items:
            lane.put(item)
        assert batcher._take_next_batch() == [items[0], items[2]]

    asyncio.run(story())


@pytest.mark.timing
def test_other_models_get_a_new_thread_when_one_model_hangs(bundle, model):
    healthy = model_of(Doubler(), "lstm_b")

    async def story(crowd: Crowd) -> None:
        fault = await asyncio.gather(*crowd.tasks, return_exceptions=True)
        assert (fault[0].model_id, fault[0].kind) == ("lstm_a", "timeout")
        answer = await crowd.batcher.forecast(healthy, window(5), timeout_s=LONG_S)
        assert answer[-1] == 10.0
        with pytest.raises(ModelFault, match="still at an earlier request"):
            await crowd.batcher.forecast(model, window(6), timeout_s=LONG_S)
        bundle.gate.set()
        crowd.batcher._stuck[model].join(LONG_S)
        assert (await crowd.batcher.forecast(model, window(7), timeout_s=LONG_S))[-1] == 14.0
        assert crowd.batcher.statistics().restarts == 1

    async def held() -> None:
        crowd = Crowd(batcher, bundle, model)
        bundle.gate.clear()
        crowd.tasks = [asyncio.ensure_future(batcher.forecast(model, window(0), timeout_s=0.5))]
        try:
            await entered(bundle)
            await story(crowd)
        finally:
            # Else a failure would wait for the model until its own time runs out.
            bundle.gate.set()

    with running() as batcher:
        asyncio.run(held())


@pytest.mark.timing
def test_requests_get_a_new_thread_when_a_shadow_hangs(bundle, model, monkeypatch):
    monkeypatch.setattr(batcher_module, "SHADOW_BUDGET_S", 0.2)
    healthy = model_of(Doubler(), "lstm_b")

    async def story() -> None:
        bundle.gate.clear()
        shadow = asyncio.ensure_future(batcher.shadow(model, window(1)))
        await entered(bundle)
        # Nobody else asks: the tick alone sees that the model hangs.
        assert (await batcher.forecast(healthy, window(2), timeout_s=LONG_S))[-1] == 4.0
        with pytest.raises(ModelFault, match="did not come back"):
            await shadow
        bundle.gate.set()

    with running() as batcher:
        asyncio.run(story())


def test_single_windows_go_before_those_of_a_large_request(bundle, model):
    other_bundle = Doubler()
    other = model_of(other_bundle, "lstm_b")
    order: list[str] = []

    async def story(crowd: Crowd) -> None:
        large = await crowd.ask(*range(10, 110), request="large")
        large[0].add_done_callback(lambda _: order.append("large"))
        for single in await crowd.ask(1) + await crowd.ask(2, model=other):
            single.add_done_callback(lambda _: order.append("single"))
        await crowd.release()

    play(story, bundle, model)
    assert (bundle.batches[1], other_bundle.batches) == ([1.0], [[2.0]])
    assert order == ["single", "single", "large"]


def test_a_large_request_goes_on_beside_any_number_of_single_windows(bundle, model):
    async def story(crowd: Crowd) -> None:
        await crowd.ask(*range(100, 132), request="large")
        await crowd.ask(*range(1, 21))
        await crowd.release()

    # A batch of one window each, so that single windows take many turns.
    play(story, bundle, model, batching=False)
    large = [number for number, [mark] in enumerate(bundle.batches) if mark >= 100]
    assert large[:4] == [4, 9, 14, 19]


def test_a_batch_of_a_large_request_is_short(bundle, model):
    async def story(crowd: Crowd) -> None:
        sizer = crowd.batcher._sizers[model]
        sizer.seconds = dict.fromkeys(sizer.sizes, SLICE_S / 4)
        await crowd.ask(*range(1, 9), request="large")
        await crowd.release()

    play(story, bundle, model)
    assert len(bundle.batches[1]) <= 4


def test_large_requests_of_a_model_take_turns(bundle, model):
    async def story(crowd: Crowd) -> None:
        await crowd.ask(*range(100, 200), request="first")
        await crowd.ask(*range(200, 208), request="second")
        await crowd.release()

    play(story, bundle, model)
    assert set(bundle.batches[1]) >= {100.0 + mark for mark in range(8)}
    assert set(bundle.batches[1]) >= {200.0 + mark for mark in range(8)}


def test_models_with_large_requests_take_turns(bundle, model):
    other_bundle = Doubler()
    other = model_of(other_bundle, "lstm_b")
    order: list[str] = []

    async def story(crowd: Crowd) -> None:
        know(crowd.batcher, other)
        first = await crowd.ask(*range(1, 101), request="first")
        second = await crowd.ask(*range(1, 9), request="second", model=other)
        first[-1].add_done_callback(lambda _: order.append("first"))
        second[-1].add_done_callback(lambda _: order.append("second"))
        await crowd.release()

    play(story, bundle, model)
    assert order == ["second", "first"]


def test_a_large_request_that_fills_its_queue_turns_no_single_window_away(bundle, model):
    async def story(crowd: Crowd) -> None:
        *_, last = await crowd.ask(1, 2, 3, request="large")
        with pytest.raises(QueueFull, match="2 windows are waiting, at most 2"):
            await last
        crowd.tasks.remove(last)
        await crowd.ask(4, 5)
        answers = await crowd.release()
        assert [answer[-1] for answer in answers] == [0.0, 2.0, 4.0, 8.0, 10.0]

    play(story, bundle, model, limit=2)


def test_a_cancelled_large_request_leaves_the_queue(bundle, model):
    async def story(crowd: Crowd) -> None:
        await crowd.ask(1)
        large = await crowd.ask(*range(10, 40), request="large")
        for task in large:
            task.cancel()
        await asyncio.sleep(0)
        assert crowd.batcher.statistics().waiting == 1
        await crowd.release()

    play(story, bundle, model)
    assert bundle.batches == [[0.0], [1.0]]


def test_shadows_wait_until_no_request_waits(bundle, model):
    other_bundle = Doubler()
    other = model_of(other_bundle, "lstm_b")

    async def story(crowd: Crowd) -> None:
        shadow = asyncio.ensure_future(crowd.batcher.shadow(other, window(1)))
        await crowd.ask(2)
        order: list[str] = []
        shadow.add_done_callback(lambda _: order.append("shadow"))
        crowd.tasks[1].add_done_callback(lambda _: order.append("main"))
        await crowd.release()
        assert (await shadow)[-1] == 2.0
        await asyncio.sleep(0)
        assert order == ["main", "shadow"]

    play(story, bundle, model)


def test_the_oldest_shadow_is_dropped_and_counted(bundle, model):
    async def story(crowd: Crowd) -> None:
        shadows = [
            asyncio.ensure_future(crowd.batcher.shadow(model, window(mark))) for mark in range(4)
        ]
        await asyncio.sleep(0)
        await crowd.release()
        answers = await asyncio.gather(*shadows)
        assert [answer is None for answer in answers] == [True, True, False, False]

    statistics = play(story, bundle, model, shadow_limit=2).statistics()
    assert (statistics.dropped, statistics.shadows) == (2, 0)


def test_a_batch_is_handed_back_by_one_call(bundle, model, monkeypatch):
    calls = []

    async def story(crowd: Crowd) -> None:
        await crowd.ask(*range(16))
        loop = asyncio.get_running_loop()
        whole = loop.call_soon_threadsafe
        monkeypatch.setattr(
            loop,
            "call_soon_threadsafe",
            lambda call, *args: calls.append(call) or whole(call, *args),
        )
        await crowd.release()
        monkeypatch.undo()

    play(story, bundle, model)
    assert calls == [batcher_module._set_results] * 2


def test_a_thousand_requests_are_answered_after_many_cancels_and_errors(bundle, model):
    random = np.random.default_rng(7)
    bundle.poison.update({float(mark): RuntimeError("no") for mark in range(1000, 1100)})

    async def one(mark: float) -> float:
        return float((await batcher.forecast(model, window(mark), timeout_s=LONG_S))[-1])

    async def storm() -> list[float]:
        wild = [asyncio.ensure_future(one(mark)) for mark in random.integers(900, 1200, 500)]
        for task in wild:
            if random.random() < 0.5:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*wild, return_exceptions=True)
        answers: list[float] = []
        for first in range(0, 1000, 100):
            asked = [one(mark / 1000) for mark in range(first, first + 100)]
            answers += await asyncio.gather(*asked)
        return answers

    with running() as batcher:
        assert asyncio.run(storm()) == [2 * mark / 1000 for mark in range(1000)]
        statistics = batcher.statistics()
    assert (statistics.waiting, statistics.restarts) == (0, 0)


def test_an_error_of_the_thread_itself_fails_its_batch_only(bundle, model, monkeypatch):
    def broken(self, items):
        monkeypatch.undo()
        raise MemoryError

    async def story() -> None:
        with pytest.raises(ModelFault, match="MemoryError"):
            await batcher.forecast(model, window(1), timeout_s=LONG_S)
        assert (await batcher.forecast(model, window(2), timeout_s=LONG_S))[-1] == 4.0

    monkeypatch.setattr(Batcher, "_forecast_batch", broken)
    with running() as batcher:
        asyncio.run(story())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_replaced_by_the_next_request(bundle, model, monkeypatch):
    def broken(pairs):
        monkeypatch.undo()
        raise MemoryError

    async def story() -> None:
        with pytest.raises(ServingError):
            await batcher.forecast(model, window(1), timeout_s=0.05)
        assert (await batcher.forecast(model, window(2), timeout_s=LONG_S))[-1] == 4.0

    monkeypatch.setattr(batcher_module, "_deliver", broken)
    with running() as batcher:
        asyncio.run(story())


def test_an_ended_event_loop_does_not_stop_the_thread(bundle, model):
    async def leave() -> None:
        bundle.gate.clear()
        asking = asyncio.ensure_future(batcher.forecast(model, window(1), timeout_s=LONG_S))
        await entered(bundle)
        asking.cancel()

    async def ask() -> float:
        return float((await batcher.forecast(model, window(2), timeout_s=LONG_S))[-1])

    with running() as batcher:
        asyncio.run(leave())
        bundle.gate.set()
        assert asyncio.run(ask()) == 4.0


def test_waiting_items_fail_when_the_batcher_stops(bundle, model, monkeypatch):
    monkeypatch.setattr(batcher_module, "STOP_TIMEOUT_S", 0.01)

    async def story(crowd: Crowd) -> None:
        [waiting] = await crowd.ask(1)
        crowd.batcher.stop()
        with pytest.raises(ServingError, match="is stopping"):
            await waiting
        with pytest.raises(ServingError, match="is stopping"):
            await crowd.batcher.forecast(model, window(2), timeout_s=LONG_S)
        crowd.batcher.start()
        bundle.gate.set()
        assert (await crowd.batcher.forecast(model, window(3), timeout_s=LONG_S))[-1] == 6.0
        await crowd.release()

    play(story, bundle, model)


def test_on_one_core_a_batch_waits_for_the_requests_after_the_last_reply(
    bundle, model, monkeypatch
):
    # Else the thread would go on without a loop that is stalled for as long.
    monkeypatch.setattr(batcher_module, "LOOK_S", LONG_S)

    async def twice(batcher: Batcher) -> None:
        for mark in (0, 3):
            await batcher.forecast(model, window(mark), timeout_s=LONG_S)

    async def story(batcher: Batcher) -> None:
        crowd = Crowd(batcher, bundle, model)
        bundle.gate.clear()
        again = asyncio.ensure_future(twice(batcher))
        await entered(bundle)
        await crowd.ask(1, 2)
        while batcher._waking:
            await asyncio.sleep(0)
        bundle.gate.set()
        await asyncio.gather(again, *crowd.tasks)

    with running(one_core=True) as batcher:
        asyncio.run(story(batcher))
    assert bundle.batches == [[0], [1, 2, 3]]
