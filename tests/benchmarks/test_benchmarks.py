"""The benchmarks compute their figures; how large these are is for `make bench` to say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import __main__ as face
from benchmarks import features, loops, searches, training
from benchmarks.figure import Figure
from benchmarks.searching import Job, Outcome, best_backtest, run_jobs
from mlops.data.simulator import simulate_bars
from mlops.models.base import count_usable_cores

TINY = {"lstm_units": [4], "sequence_length": 3}


def outcomes(registered: int, n: int) -> list[Outcome]:
    return [
        Outcome(
            case="n",
            number=number,
            registered=number < registered,
            refused_by=() if number < registered else ("G2 skill",),
            backtest_sharpe=2.0,
            holdout_sharpe=0.5,
            seconds=1.0,
        )
        for number in range(n)
    ]


@pytest.mark.slow
def test_both_training_loops_learn_the_same_from_the_same_series() -> None:
    config = {**TINY, "lstm_units": [16], "learning_rate": 0.02, "batch_size": 64}
    size = loops.Size(
        fit_rows=2_000, selection_rows=500, epochs=5, config={**config, "dropout_rate": 0.0}
    )
    series = loops.make_series(size)
    plain = loops.PlainLoop(series, size)
    for _ in range(size.epochs):
        plain.epoch()
    ours = loops.our_loop(series, size, threads=1, on_epoch=lambda _: None)
    found = min(epoch.selection_loss for epoch in ours.epochs)
    assert found < 0.75 * float(series.learned[series.selection].var())
    # Their orders of rows differ; the ratio had a standard deviation of .03 over eight seeds.
    assert min(plain.losses) == pytest.approx(found, rel=0.1)
    assert plain.samples + size.epochs * _probed(size) == size.epochs * size.fit_rows


def _probed(size: loops.Size) -> int:
    threads = {1, count_usable_cores()}
    return len(threads) * loops.PROBED_BATCHES * int(size.recipe.number("batch_size"))


@pytest.mark.slow
def test_the_speed_and_the_loss_are_set_beside_the_plain_loops() -> None:
    size = loops.Size(fit_rows=600, selection_rows=100, epochs=2, config=TINY)
    speed, loss = training.against_plain_loop(size)
    assert "times as fast" in speed.measured
    assert "a plain DataLoader loop" in speed.peer
    assert math.isfinite(float(loss.measured.split()[0]))


@pytest.mark.slow
def test_the_neighbour_comes_in_the_middle_and_leaves_with_the_measurement() -> None:
    size = loops.Size(fit_rows=300, selection_rows=100, epochs=3, config=TINY)
    with training.neighbour_after(1) as neighbour:
        loops.our_loop(loops.make_series(size), size, threads=1, on_epoch=neighbour.look)
        assert neighbour.process is not None
        assert neighbour.process.poll() is None
    assert neighbour.process.poll() is not None
    assert len(neighbour.seconds) == 3


def test_features_are_timed_beside_pandas() -> None:
    assert "times pandas" in features.feature_speed(2_000).peer


@pytest.mark.parametrize(
    ("case", "registered", "n", "holds"),
    [
        ("n", 5, 40, True),
        ("n", 6, 40, False),
        ("l", 17, 20, True),
        ("l", 16, 20, False),
        ("i", 14, 20, True),
        ("i", 13, 20, False),
        ("n", 1, 4, True),
        ("l", 1, 3, False),
    ],
)
def test_what_is_asked_of_a_case_is_in_proportion_to_its_searches(
    case: str, registered: int, n: int, holds: bool
) -> None:
    chosen = next(one for one in searches.CASES if one.name == case)
    figure = chosen.figure(outcomes(registered, n))
    assert figure.holds is holds
    assert f"Sharpe > 1 would let through {n} by the best trial" in figure.peer


def test_no_two_searches_share_a_market_or_a_service() -> None:
    jobs = [job for case in searches.CASES for job in case.jobs(quick=False)]
    assert len(jobs) == 80
    assert len({job.seed for job in jobs}) == len({job.symbol for job in jobs}) == 80


@pytest.mark.slow
def test_one_fit_is_looked_through_against_the_truth() -> None:
    figure = searches.eyesight(markets=1, bars=1_500)
    assert "correlation with the truth" in figure.measured
    assert "ridge" in figure.peer


def test_the_backtest_is_that_of_the_best_trial(tmp_path: Path) -> None:
    bars = simulate_bars(400, seed=1)
    made_at = pd.DatetimeIndex(bars.index).shift(1).tz_localize(None)
    move = np.append(np.diff(np.log(bars["close"])), 0.0)
    (tmp_path / "study").mkdir()
    for name, forecast in {"seer": move, "fool": -move}.items():
        kept = pd.DataFrame({"made_at": made_at, "forecast": forecast})
        kept.to_parquet(tmp_path / "study" / f"{name}.parquet")
    seen = best_backtest(tmp_path, bars, fee_bps=0.0)
    assert seen > 50
    assert best_backtest(tmp_path, bars, fee_bps=10.0) < seen


def test_the_exit_status_counts_what_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Figure("a", "1", "2", holds=False), Figure("b", "1", "1", holds=True)]
    monkeypatch.setattr(features, "figures", lambda *, quick: found)
    assert face.main(["features", "--quick"]) == 1


@pytest.mark.slow
def test_a_worker_runs_whole_searches_and_says_why_one_failed(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "case": "s",
        "r2": 0.02,
        "form": "linear",
        "fee_bps": 0.0,
        "trials": 2,
        "refits": 2,
    }
    told: list[Outcome] = []
    (found,) = run_jobs([Job(number=0, bars=1_500, **small)], tmp_path, workers=1, tell=told.append)
    assert told == [found]
    assert found.registered is not bool(found.refused_by)
    with pytest.raises(RuntimeError, match="ask for at least one"):
        run_jobs([Job(number=1, bars=0, **small)], tmp_path / "again", workers=1, tell=told.append)
