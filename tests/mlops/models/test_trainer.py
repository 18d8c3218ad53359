"""The training loop: repeatable whoever computes, stops in time, keeps its best weights."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlops.errors import ModelError, TrainingError, TrainingTimeout
from mlops.models.base import FitContext
from mlops.models.devices import GradientWorkers, choose_device, choose_precision, parts_of_batch
from mlops.models.lstm import LstmNetwork
from mlops.models.trainer import TrainingHyperparameters, gather_windows, train_network

PLAN = TrainingHyperparameters(
    sequence_length=4,
    learning_rate=0.01,
    batch_size=64,
    epochs=6,
    patience=6,
    weight_decay=0.0,
    gradient_clip=1.0,
    averaging=0.0,
)
ROWS = torch.arange(4, 700), torch.arange(700, 1000)


@pytest.fixture(scope="module")
def series():
    """1,000 rows of two features whose last product is the label, with a little noise."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn((1000, 2), generator=generator)
    noise = torch.randn(1000, generator=generator)
    return features, features[:, 0] * features[:, 1] + 0.3 * noise


def _learn(series, *, plan=PLAN, units=(8,), context=FitContext(seed=5), dropout=0.1):  # noqa: B008
    network = LstmNetwork(2, units, dropout)
    network.initialise(torch.Generator().manual_seed(context.seed))
    fit_rows, selection_rows = ROWS
    history = train_network(
        network, *series, fit_rows=fit_rows, selection_rows=selection_rows, config=plan,
        context=context,
    )  # fmt: skip
    return network, history


def _weights(network):
    return torch.cat([weight.flatten() for weight in network.state_dict().values()])


def test_a_network_learns_a_product_that_no_linear_model_learns(series):
    _, history = _learn(series, plan=replace(PLAN, epochs=40, patience=40))
    assert history.best_epoch.selection_loss < 0.5 * float(series[1][700:].var())


def test_the_weights_of_the_best_epoch_are_kept(series):
    network, history = _learn(series, plan=replace(PLAN, epochs=30, learning_rate=0.2, patience=5))
    network.eval()
    _, rows = ROWS
    with torch.no_grad():
        loss = (network(gather_windows(series[0], rows, 4)) - series[1][rows]).square().mean()
    assert float(loss) == pytest.approx(history.best_epoch.selection_loss, rel=1e-5)
    assert min(e.selection_loss for e in history.epochs) >= 0.9998 * float(loss)


def test_learning_stops_when_selection_no_longer_improves(series):
    _, history = _learn(series, plan=replace(PLAN, epochs=200, learning_rate=0.1, patience=2))
    assert len(history.epochs) < 200
    assert not any(epoch.best for epoch in history.epochs[-2:])


def test_a_large_network_has_the_same_bits_with_one_thread_or_two(series):
    plan = replace(PLAN, epochs=1)
    one, _ = _learn(series, plan=plan, units=(128, 16), context=FitContext(seed=2, threads=1))
    two, history = _learn(series, plan=plan, units=(128, 16), context=FitContext(seed=2, threads=2))
    assert history.workers in (1, 2)
    assert torch.equal(_weights(one), _weights(two))


def test_the_threads_of_the_process_are_as_before(series):
    before = torch.get_num_threads()
    _learn(series, plan=replace(PLAN, epochs=1))
    assert torch.get_num_threads() == before


def test_the_callers_random_state_does_not_change_a_fit(series):
    first, _ = _learn(series)
    torch.manual_seed(999)
    np.random.seed(999)
    second, _ = _learn(series)
    assert torch.equal(_weights(first), _weights(second))


def test_another_seed_gives_other_weights(series):
    assert not torch.equal(
        _weights(_learn(series)[0]), _weights(_learn(series, context=FitContext(seed=6))[0])
    )


def test_the_mean_of_the_weights_is_what_is_kept_when_averaging(series):
    plain, _ = _learn(series, plan=replace(PLAN, epochs=1))
    averaged, _ = _learn(series, plan=replace(PLAN, epochs=1, averaging=0.9))
    assert not torch.equal(_weights(plain), _weights(averaged))


def test_a_passed_deadline_stops_the_fit(series):
    with pytest.raises(TrainingTimeout, match="deadline"):
        _learn(series, context=FitContext(deadline=time.monotonic() - 1))


@pytest.mark.timing
def test_the_deadline_is_checked_within_an_epoch(series):
    """One endless epoch of single rows still stops within a fraction of it."""
    slow = replace(PLAN, batch_size=1, epochs=10_000, patience=10_000)
    started = time.monotonic()
    with pytest.raises(TrainingTimeout):
        _learn(series, plan=slow, context=FitContext(deadline=started + 0.1))
    assert time.monotonic() - started < 5


def test_a_loss_that_explodes_is_named(series):
    features, learned = series
    broken = learned.clone()
    broken[10] = float("inf")
    with pytest.raises(TrainingError, match="learning_rate"):
        _learn((features, broken))


def test_each_epoch_is_reported_once_and_in_order(series):
    told = []
    _, history = _learn(series, context=FitContext(on_epoch=told.append))
    assert tuple(told) == history.epochs
    assert [epoch.number for epoch in told] == list(range(1, len(told) + 1))


def test_windows_end_at_their_row():
    features = torch.arange(10.0)[:, None]
    window = gather_windows(features, torch.tensor([3, 9]), 3)
    assert window[:, :, 0].T.tolist() == [[1, 2, 3], [7, 8, 9]]


def test_small_networks_stay_in_float32_and_in_one_part():
    cpu = torch.device("cpu")
    assert choose_precision(cpu, 5_000) is torch.float32
    assert parts_of_batch(cpu, 5_000, 256) == 1
    assert parts_of_batch(cpu, 150_000, 32) == 2
    assert parts_of_batch(cpu, 150_000, 16) == 1


def test_gradient_workers_keep_the_order_of_parts_and_choose_the_faster_way():
    def work(part):
        time.sleep(0.01)
        return part * 10

    with GradientWorkers(2) as workers:
        for _ in range(12):
            assert workers.run(work, [1, 2]) == [10, 20]
        assert workers.side_by_side


@pytest.mark.parametrize("device", ["tpu", "cuda:7"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(ModelError, match=device):
        choose_device(device)


def test_the_auto_device_is_cuda_where_available():
    there = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == there
