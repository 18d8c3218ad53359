"""The demonstration in three acts: models are judged, one is rolled out, a past is rehearsed.

The third act is two stretches of the past, a market break and an A/B test. Each runs in a process
of its own, while the first two acts train and wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deployments.demo.act_process import start_act
from deployments.demo.rollout_act import roll_out_versions
from flows.train import TrainResult, train
from mlops.data.load import load_bars
from mlops.manager import MLOpsManager
from mlops.registry.version_history import Explanation
from mlops.reports.cards import save_story
from mlops.reports.page import AbTestSection, HistorySection
from mlops.search.config import ModelType, TrainingConfig
from mlops.service import Service, Target
from mlops.settings import current_settings
from mlops.validation.evaluation import Evaluation

LSTM = {"lstm_units": [32], "batch_size": 256, "learning_rate": 0.003, "epochs": 12, "patience": 3}
LSTM_FEATURES = (
    "har_1", "har_6", "har_24", "har_168", "volume", "volume_ratio", "hour_sin", "hour_cos",
)  # fmt: skip

SHOWN_PARAMS = ("lstm_units", "learning_rate", "dropout_rate", "batch_size")
NEWEST_BARS = 1000


@dataclass(frozen=True, slots=True)
class DemoTraining:
    """One training of the first act."""

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
    """A training with its result."""

    training: DemoTraining
    result: TrainResult
    explanation: Explanation


def run_demo(symbol: str, console: Console, *, until: datetime, quick: bool = False) -> Path:
    """Run and print all three acts; returns the path of the report.

    Args:
        until: The last day of the market break that the third act rehearses.
        quick: Train only the first model of the first act.
    """
    manager = MLOpsManager(current_settings())
    home, last_day = manager.config.mlops_base_path, f"{until:%Y-%m-%d}"
    with ExitStack() as acts:
        history = acts.enter_context(
            start_act("--only-past", symbol, home / "past", "--until", last_day)
        )
        testing = acts.enter_context(start_act("--only-test", symbol, home / "test"))
        trainings = TRAININGS[:1] if quick else TRAININGS
        versions = [_train(training, symbol, manager) for training in trainings]
        console.print(verdict_table(symbol, versions))
        for version in versions:
            console.print(*describe_version(version), sep="\n", highlight=False, soft_wrap=True)
        passed = [version.result for version in versions if version.result.passed]
        rollouts = []
        if passed:
            _forecast(manager, passed[-1].service, console)
            rollouts = roll_out_versions(manager, passed[-1].model_id, console)
        else:
            console.print("nothing passed: every service keeps its baseline")
        past = history.finish(console, "the hours of 2018 go by")
        tests = testing.finish(console, "the hours of an A/B test go by")
    return save_story(
        [Path(version.result.report) for version in versions],
        manager.config.reports_path / "story.html",
        title=f"{symbol} sample",
        subtitle="Why versions passed or were refused, how they went live, what they lived through",
        rollouts=rollouts,
        history=[HistorySection.from_json(text) for text in past],
        tests=[AbTestSection.from_json(text) for text in tests],
    )


def _train(training: DemoTraining, symbol: str, manager: MLOpsManager) -> TrainedVersion:
    result = train(
        symbol=symbol,
        model_type=training.model_type,
        venue="sample",
        target=training.target,
        horizon=training.horizon,
        training=training.config,
    )
    return TrainedVersion(training, result, manager.explain(result.model_id))


def verdict_table(symbol: str, versions: list[TrainedVersion]) -> Table:
    """One row a version: how it did on the holdout, with 95 % intervals, and its verdict."""
    table = Table(
        title=f"{symbol} sample: the holdout (last 30 %), with 95 % intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("service", "version", "R2", "direction", "MSE vs baseline", "verdict"):
        table.add_column(heading, no_wrap=True)
    for version in versions:
        training, result = version.training, version.result
        table.add_row(
            f"{training.target}.{training.horizon}",
            result.model_id.rpartition("_")[0].rpartition("_")[0],
            format_interval(result.evaluation, "r2_score"),
            format_interval(result.evaluation, "accuracy"),
            format_interval(result.evaluation, "mse_vs_baseline", as_change=True),
            result.status,
        )
    return table


def format_interval(evaluation: Evaluation, name: str, *, as_change: bool = False) -> str:
    """A metric with its interval; ``as_change`` writes a ratio as a change in percent."""
    metric = evaluation[name]
    numbers = [metric.value, metric.low, metric.high]
    if as_change:
        value, low, high = (f"{100 * (number - 1):+.1f}" for number in numbers)
        return f"{value} % [{low}, {high}]"
    value, low, high = (f"{number:.3f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def describe_version(version: TrainedVersion) -> list[str]:
    """Lines with the configuration of a training, and why its version passed or was refused."""
    config, result = version.training.config, version.result
    searched = f"best of {config.trials} searched trials" if config.trials else "as configured"
    refits = f"{config.refits} refits before the holdout, {config.holdout_refits} through it"
    recipe = version.explanation.version.notes["recipe"]
    return [
        f"{result.model_id}: {searched}, {refits}, seed {config.seed}",
        f"  recipe {describe_recipe(recipe)}",
        *(f"  {result.status} by {reason}" for reason in deciding_reasons(version.explanation)),
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
    """A number with three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def deciding_reasons(explanation: Explanation) -> tuple[str, ...]:
    """Of a refused version the refusals, of a passed one the results of the two tests of skill."""
    report = explanation.report
    assert report is not None
    if not report.passed:
        return report.reasons
    return tuple(f"{gate} {report[gate].reason}" for gate in ("G2", "G3"))


def _forecast(manager: MLOpsManager, service_key: str, console: Console) -> None:
    """Forecast with the service's challenger, as a notebook would."""
    service = Service.parse(service_key)
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
