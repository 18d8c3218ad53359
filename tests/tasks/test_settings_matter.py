"""Every variable that governs a training changes what the training does."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.errors import BundleError, InsufficientData, ModelError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.manager import MLOpsManager
from mlops.models.base import default_recipe
from mlops.monitoring.drift.report import DriftReport
from mlops.monitoring.performance import degradation
from mlops.monitoring.performance.live import LivePerformance
from mlops.monitoring.performance.outcomes import ServiceBars, match_bars
from mlops.registry.connection import load
from mlops.search.config import TrainingConfig
from mlops.service import Service
from mlops.settings import Settings, current_settings
from mlops.stats.metrics import ModelMetrics
from mlops.store import get_route
from mlops.store.forecasts import record_forecasts
from mlops.validation.report import GateResult
from tasks import training as step
from tasks.context import open_project
from tests.mlops.data.conftest import make_bars
from tests.mlops.data.exchange_replay import Replay, klines, serving
from tests.mlops.monitoring.ticker import forecast_row
from tests.project import BARS, SMALL_LSTM, Place
from tests.studied import Studied, assigned

SET_IN = ("tasks", "flows", "deployments")
OWN = {"class_path": "own.models:Mine"}


def gate(found: Any, title: str) -> GateResult:
    return next(result for result in found.report.results if result.title == title)


def test_every_variable_is_set_by_a_test() -> None:
    """Here, or where its own subject is tested."""
    root = Path(__file__).parents[1]
    tests = [path for house in SET_IN for path in root.glob(f"{house}/*.py")]
    said = "\n".join(path.read_text() for path in tests)
    missing = [name for name in Settings.model_fields if f"{name.upper()}" not in said]
    assert missing == []


def test_the_base_path_holds_everything(project: Place, tmp_path: Path) -> None:
    project.set(MLOPS_BASE_PATH=tmp_path / "elsewhere")
    opened = open_project()
    assert opened.registry.home == tmp_path / "elsewhere"
    assert (tmp_path / "elsewhere" / "store.db").exists()
    assert (tmp_path / "elsewhere" / "mlruns" / "mlflow.db").exists()


def test_mlflow_is_where_its_uri_says_and_collects_under_its_name(
    project: Place, mlruns: str
) -> None:
    project.set(MLFLOW_TRACKING_URI=mlruns, MLFLOW_EXPERIMENT_NAME="hourly")
    opened = open_project()
    tracking = opened.registry.tracking
    database = Path(mlruns.removeprefix("file://")) / "mlflow.db"
    assert tracking.uri == f"sqlite:///{database}"
    assert tracking.client.get_experiment(tracking.experiment_id).name == "hourly"


def test_the_store_is_where_its_url_says(project: Place, tmp_path: Path) -> None:
    project.set(STORE_URL=f"sqlite:///{tmp_path / 'own.db'}")
    open_project()
    assert (tmp_path / "own.db").exists()
    assert not (project.base / "store.db").exists()


def test_an_exchange_is_asked_at_its_base_url(project: Place) -> None:
    frame = make_bars(60).round(6)
    now = frame.index[-1].to_pydatetime()
    with serving(Replay(bars={"BTCUSDT": klines(frame)}, now=now)) as exchange:
        project.set(EXCHANGE_BASE_URL=exchange.url)
        service = current_settings().service("BTC/USDT", venue="binance")
        config = TrainingConfig(start=frame.index[0], end=now)
        assert len(step.load.fn(open_project(), service, config).frame) == 59


def test_fees_are_paid_by_symbol_or_by_default(returns: Studied) -> None:
    free, usual = returns.judged(FEE_BPS=0), returns.judged(FEE_BPS=10)
    own = returns.judged(FEE_BPS=0, FEE_BPS_BY_SYMBOL="BTC/USD=10")
    sharpes = [found.evaluation["sharpe_ratio"].value for found in (free, usual, own)]
    assert sharpes[0] > sharpes[1]
    assert sharpes[2] == sharpes[1]
    assert gate(own, "holdout").value == gate(usual, "holdout").value


def test_the_winner_is_chosen_after_fees(project: Place) -> None:
    """A search ranks by what the gates measure, and that is profit after costs."""
    asked = {"target": "return", "horizon": 1, "features": ("log_return",)}
    project.set(FEE_BPS=0)
    free = Studied.of(project, **asked).study.ranks["linear"]
    project.set(FEE_BPS=10)
    paid = Studied.of(project, **asked, seed=1).study.ranks["linear"]
    assert free > paid


@pytest.mark.slow
def test_networks_train_on_the_device(project: Place) -> None:
    import torch

    asked = {"model_type": "lstm", "families": ("lstm",), "params": SMALL_LSTM}
    project.set(DEVICE="cpu")
    assert Studied.of(project, **asked).study.holdout.histories[0].device == "cpu"
    project.set(DEVICE="cuda")
    if torch.cuda.is_available():
        histories = Studied.of(project, **asked, seed=1).study.holdout.histories
        assert histories[0].device == "cuda"
    else:
        with pytest.raises(ModelError, match="cuda"):
            Studied.of(project, **asked, seed=1)


def test_a_training_has_its_hours(project: Place) -> None:
    project.set(TRAINING_JOB_TIMEOUT_HOURS=2)
    opened = open_project()
    assert opened.deadline - time.monotonic() == pytest.approx(7200, abs=60)
    assert opened.seconds_left == pytest.approx(7200, abs=60)


def test_fewer_bars_than_the_least_are_refused(project: Place) -> None:
    project.set(MIN_TRAINING_DATA_POINTS=2401)
    with pytest.raises(InsufficientData, match="at least 2,401 bars but got 2,400"):
        assigned(project)


def test_classes_of_trusted_modules_only_are_assigned(project: Place) -> None:
    asked = {"model_type": "custom", "families": ("custom",), "sequence_length": 1, "params": OWN}
    with pytest.raises(ModelError, match="CUSTOM_MODEL_MODULES"):
        assigned(project, **asked)
    project.set(CUSTOM_MODEL_MODULES="other,own")
    assert assigned(project, **asked)[1].allowed_classes == {"own.models:Mine"}


# A class of a notebook: it has no module, so it is kept as a signed pickle.
Notebook = type("Notebook", (), {"predict": lambda self, x: np.full(len(x), 1.5)})
Notebook.__module__ = "__main__"


def test_signed_pickles_load_only_where_they_are_allowed(project: Place) -> None:
    project.set(DEFAULT_VENUE="simulator", ALLOW_SIGNED_PICKLE="true")
    registering = MLOpsManager(current_settings()).register_model(
        model=Notebook(), model_type="custom", symbol="BTC/USDT", metrics=ModelMetrics(mse=1, mae=1)
    )
    version = asyncio.run(registering)
    assert len(load(open_project().registry, version.model_id).predict(project.frame)) > 0
    project.set(ALLOW_SIGNED_PICKLE="false")
    with pytest.raises(BundleError, match="ALLOW_SIGNED_PICKLE=true"):
        load(open_project().registry, version.model_id)


@pytest.mark.parametrize(
    ("name", "value"), [("MIN_MODEL_ACCURACY", 0.9), ("MAX_MODEL_MSE", 1e-6), ("MIN_R2_SCORE", 0.9)]
)
def test_a_threshold_refuses_what_misses_it(volatility: Studied, name: str, value: float) -> None:
    assert volatility.judged().report.passed
    refused = volatility.judged(**{name: value})
    assert [result.title for result in refused.report.refused_by] == [name]


def test_strict_thresholds_are_literal_for_a_return_too(returns: Studied) -> None:
    literal = {"MIN_MODEL_ACCURACY", "MIN_R2_SCORE"}
    refused = {
        mode: {
            one.title for one in returns.judged(VALIDATION_THRESHOLD_MODE=mode).report.refused_by
        }
        for mode in ("skill", "strict")
    }
    assert literal.isdisjoint(refused["skill"])
    assert literal <= refused["strict"]


def test_a_drawdown_is_limited(returns: Studied) -> None:
    for limit in (0.1, 0.4):
        found = gate(returns.judged(MAX_DRAWDOWN_LIMIT=limit), "drawdown")
        assert found.threshold == -limit


@pytest.mark.parametrize("budget", [0.05, 0.2])
def test_a_refit_spends_of_the_yearly_budget(project: Place, budget: float) -> None:
    searched = 1500
    project.set(YEARLY_ALPHA_BUDGET=budget)
    Studied.of(project, end=project.frame.index[searched].to_pydatetime()).registered()
    refit = Studied.of(project, reason="schedule")
    assert refit.assignment.policy.is_refit
    assert refit.judged().report.alpha == pytest.approx(budget * (BARS - searched) / (365 * 24))


def test_drift_is_decided_on_windows_and_effects_as_set(project: Place) -> None:
    opened, assignment = assigned(project)
    route = get_route(opened.registry.store, assignment.service.key)
    assert route is not None
    wild = project.frame[-600:].copy()
    wild["high"] *= 1.5

    def report() -> DriftReport:
        manager = MLOpsManager(current_settings())
        return asyncio.run(manager.monitor_model_drift(route.baseline, wild))

    project.set(DECISION_WINDOW_HOURS=48)
    alarmed = report()
    assert (alarmed.window_bars, alarmed.drift_detected) == (48, True), str(alarmed)
    project.set(DRIFT_THRESHOLD=0.999)
    assert not report().drift_detected


def test_live_figures_and_lost_skill_are_measured_as_set(project: Place) -> None:
    """A version that forecasts far off loses its skill; how much counts is for a setting."""
    project.patch.setattr(degradation, "MIN_REFERENCE_BARS", 500)
    version = Studied.of(project).registered()
    service = Service.parse(version.service)
    store = open_project().registry.store
    target = TargetSpec(service.target, service.horizon)
    dataset = Dataset(project.frame, timeframe=service.timeframe, target=target)
    bars_of_service = ServiceBars.of(service, dataset, default_recipe("persistence", target))
    wrong = bars_of_service.baseline + 2.0 * np.where(np.arange(len(dataset)) % 2, 1.0, -1.0)
    record_forecasts(
        store,
        [
            forecast_row(service, stamp.to_pydatetime(), model_id=version.model_id, value=value)
            for stamp, value in zip(project.frame.index[-400:], wrong[-400:], strict=True)
        ],
    )
    now = project.frame.index[-1].to_pydatetime() + service.timeframe.step
    match_bars(store, [bars_of_service], now=now)

    def measured() -> LivePerformance:
        manager = MLOpsManager(current_settings())
        return asyncio.run(manager.monitor_model_performance(version.model_id, now=now))

    project.set(MONITORING_WINDOW_HOURS=36, DECISION_WINDOW_HOURS=48, PERFORMANCE_THRESHOLD=0.5)
    found = measured()
    assert found.degradation is not None
    assert (found.n, found.degradation.n) == (36, 48)
    assert found.degradation.degraded, found.degradation.reason
    assert found["mse"].at_promotion == version.metrics["mse"]
    project.set(PERFORMANCE_THRESHOLD=10_000)
    again = measured().degradation
    assert again is not None
    assert not again.degraded


def test_a_name_in_a_test_is_a_variable() -> None:
    """Guards the list above: a variable that was renamed is noticed here."""
    said = set(re.findall(r"\b([A-Z][A-Z_]+)=", Path(__file__).read_text()))
    known = {name.upper() for name in Settings.model_fields}
    assert {name for name in said if "_" in name or name == "DEVICE"} <= known
