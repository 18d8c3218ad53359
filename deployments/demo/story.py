"""The demonstration in three acts: judged on real bars, taken live, gone through time.

[[The third act in a process of its own: its hours go by while the first two train and wait.]]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deployments.demo.rollout_act import roll_out_versions, stop_process
from flows.train import TrainResult, train
from mlops.data.load import load_bars
from mlops.manager import MLOpsManager
from mlops.registry.version_history import Explanation
from mlops.reports.cards import save_story
from mlops.reports.page import PastSection, RolloutSection
from mlops.search.config import ModelType, TrainingConfig
from mlops.service import Service, Target
from mlops.settings import current_settings
from mlops.validation.evaluation import Evaluation

STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class HistoryProcess:
    """The process, and where it writes what it says and shows."""

    process: subprocess.Popen[bytes]
    said: Path
    section: Path

    def tell(self, console: Console) -> list[PastSection]:
        """Wait for its end, print what it said, and return what it shows.

        Raises:
            SystemExit: when it failed.
        """
        with console.status("the hours of 2018 go by"):
            code = self.process.wait()
        console.print(self.said.read_text().rstrip(), highlight=False, soft_wrap=True, markup=False)
        if code:
            log = self.said.with_suffix(".log")
            raise SystemExit(f"the third act ended with status {code}; see {log}")
        return [PastSection.from_json(self.section.read_text())] if self.section.exists() else []


@contextmanager
def start_history(symbol: str, home: Path, until: datetime) -> Iterator[HistoryProcess]:
    """Begin the third act under ``home``; it is gone when the block ends."""
    said, section = home.with_suffix(".txt"), home.with_suffix(".json")
    with said.open("wb") as file, home.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.demo", "--symbol", symbol, "--home", str(home),
             "--until", f"{until:%Y-%m-%d}", "--only-past", str(section)],
            stdout=file,
            stderr=log,
        )  # fmt: skip
    try:
        yield HistoryProcess(process, said, section)
    finally:
        stop_process(process, within_s=STOP_S)


LSTM = {"lstm_units": [32], "batch_size": 256, "learning_rate": 0.003, "epochs": 12, "patience": 3}
LSTM_FEATURES = (
    "har_1", "har_6", "har_24", "har_168", "volume", "volume_ratio", "hour_sin", "hour_cos",
)  # fmt: skip

SHOWN_PARAMS = ("lstm_units", "learning_rate", "dropout_rate", "batch_size")
NEWEST_BARS = 1000


@dataclass(frozen=True, slots=True)
class DemoTraining:
    """One training of the story."""

    model_type: ModelType
    target: Target
    horizon: int
    config: TrainingConfig


TRAININGS = (
    DemoTraining(
        ModelType.LSTM,
        Target.VOLATILITY,
        24,
        TrainingConfig(
            families=(ModelType.LSTM,), features=LSTM_FEATURES, sequence_length=12, params=LSTM
        ),
    ),
    DemoTraining(ModelType.ENSEMBLE, Target.VOLATILITY, 24, TrainingConfig(trials=6)),
    DemoTraining(ModelType.LSTM, Target.RETURN, 1, TrainingConfig(trials=10)),
)


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """What became of an act."""

    act: DemoTraining
    result: TrainResult
    explanation: Explanation


def run_demo(symbol: str, console: Console, *, until: datetime, quick: bool = False) -> Path:
    """Print all three acts, the last one up to a day of the past; returns the report's path.

    ``quick`` trains only the first model of the first act.
    """
    manager = MLOpsManager(current_settings())
    with start_history(symbol, manager.config.mlops_base_path / "past", until) as third:
        told = [_perform(act, symbol, manager) for act in (TRAININGS[:1] if quick else TRAININGS)]
        console.print(verdict_table(symbol, told))
        for one in told:
            console.print(*describe_version(one), sep="\n", highlight=False, soft_wrap=True)
        _forecast(manager, told, console)
        rollouts = _second_act(manager, told, console)
        past = third.tell(console)
    return save_story(
        [Path(one.result.report) for one in told],
        manager.config.reports_path / "story.html",
        title=f"{symbol} sample",
        subtitle="Why versions passed or were refused, how they went live, what they lived through",
        rollouts=rollouts,
        past=past,
    )


def _second_act(
    manager: MLOpsManager, told: list[TrainedVersion], console: Console
) -> list[RolloutSection]:
    """What passed last goes live; where nothing did, every service keeps its baseline."""
    passed = [one.result.model_id for one in told if one.result.passed]
    return roll_out_versions(manager, passed[-1], console) if passed else []


def _perform(act: DemoTraining, symbol: str, manager: MLOpsManager) -> TrainedVersion:
    result = train(
        symbol=symbol,
        model_type=act.model_type,
        venue="sample",
        target=act.target,
        horizon=act.horizon,
        training=act.config,
    )
    return TrainedVersion(act, result, manager.explain(result.model_id))


def verdict_table(symbol: str, told: list[TrainedVersion]) -> Table:
    """One row a version: how it did on the holdout, with 95 % intervals, and its verdict."""
    table = Table(
        title=f"{symbol} sample: the holdout (last 30 %), with 95 % intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("service", "version", "R2", "direction", "MSE vs baseline", "verdict"):
        table.add_column(heading, no_wrap=True)
    for one in told:
        table.add_row(
            f"{one.act.target}.{one.act.horizon}",
            one.result.model_id.rpartition("_")[0].rpartition("_")[0],
            format_interval(one.result.evaluation, "r2_score"),
            format_interval(one.result.evaluation, "accuracy"),
            format_interval(one.result.evaluation, "mse_vs_baseline", as_change=True),
            one.result.status,
        )
    return table


def format_interval(measured: Evaluation, name: str, *, as_change: bool = False) -> str:
    """A metric with its interval; ``as_change`` writes a ratio as a change in percent."""
    found = measured[name]
    numbers = [found.value, found.low, found.high]
    if as_change:
        value, low, high = (f"{100 * (number - 1):+.1f}" for number in numbers)
        return f"{value} % [{low}, {high}]"
    value, low, high = (f"{number:.3f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def describe_version(one: TrainedVersion) -> list[str]:
    """The configuration of an act, and why its version passed or was refused."""
    config, notes = one.act.config, one.explanation.version.notes
    searched = f"best of {config.trials} searched trials" if config.trials else "as configured"
    refits = f"{config.refits} refits before the holdout, {config.holdout_refits} through it"
    recipe = notes["recipe"]
    return [
        f"{one.result.model_id}: {searched}, {refits}, seed {config.seed}",
        f"  recipe {describe_recipe(recipe)}",
        *(f"  {one.result.status} by {reason}" for reason in deciding_reasons(one.explanation)),
    ]


def describe_recipe(recipe: Mapping[str, Any]) -> str:
    """A recipe in one line; an ensemble names its members."""
    if recipe["members"]:
        return " + ".join(describe_recipe(member) for member in recipe["members"])
    shown = {key: value for key, value in recipe["params"].items() if key in SHOWN_PARAMS}
    words = ", ".join(f"{key} {format_parameter(value)}" for key, value in shown.items())
    features, length = len(recipe["features"]), recipe["sequence_length"]
    return f"{recipe['model_type']} on {features} features x {length} bars" + (
        f" ({words})" if words else ""
    )


def format_parameter(value: object) -> str:
    """A parameter as people write it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def deciding_reasons(explanation: Explanation) -> tuple[str, ...]:
    """What a reader asks for first: the refusals, or the two tests of skill that were passed."""
    report = explanation.report
    assert report is not None
    if not report.passed:
        return report.reasons
    return tuple(f"{gate} {report[gate].reason}" for gate in ("G2", "G3"))


def _forecast(manager: MLOpsManager, told: list[TrainedVersion], console: Console) -> None:
    """Forecast with the registered challenger, as any notebook would."""
    passed = [one.explanation.version.service for one in told if one.result.passed]
    if not passed:
        console.print("nothing passed: every service keeps its baseline")
        return
    service = Service.parse(passed[-1])
    bars = load_bars(service, cache_root=manager.config.bars_path)
    uri = f"models:/{service.key}@challenger"
    forecasts = mlflow.pyfunc.load_model(uri).predict(bars.frame.tail(NEWEST_BARS))
    at, value = forecasts.index[-1], forecasts["forecast"].iloc[-1]
    console.print(
        f"mlflow.pyfunc.load_model({uri!r}) forecasts {value:.3f} from the bar of "
        f"{at:%Y-%m-%d %H:%M}",
        highlight=False,
        soft_wrap=True,
    )
