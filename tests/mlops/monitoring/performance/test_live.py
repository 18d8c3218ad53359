"""A version on its latest outcomes, beside its promotion and the baseline on the same bars."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops.data.calendar import load_calendar
from mlops.errors import SettingsError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.bundle import Bundle, open_bundle
from mlops.models.signing import load_or_make_key
from mlops.monitoring.performance.degradation import Losses, SkillStatus
from mlops.monitoring.performance.live import (
    RUN_UP_BARS,
    LivePerformance,
    list_due_bars,
    measure_performance,
)
from mlops.monitoring.performance.outcomes import ServiceBars, match_bars
from mlops.monitoring.performance.promotion import (
    Promotion,
    evaluation_at_promotion,
    reference_losses,
)
from mlops.registry.bundles import bundle_parts, write_bundle
from mlops.service import Service, Target, Timeframe
from mlops.stats import metrics, trading
from mlops.store import ModelVersion, Store
from mlops.store.forecasts import Role, record_forecasts
from mlops.store.outcomes import OutcomeCounts, read_matched
from mlops.validation.evaluation import evaluate
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import cut_record
from tests.mlops.data.conftest import make_bars
from tests.mlops.monitoring.ticker import HOUR, RETURNS, START, bars_of_service, forecast_row

BARS = make_bars(400)
NOW = START + 400 * HOUR
VOLATILITY = replace(RETURNS, target=Target.VOLATILITY, horizon=4)
ALWAYS = load_calendar("24/7")
FIRST = 20
"""The first bar that is forecast."""


@pytest.fixture
def version(add: Callable[..., ModelVersion]) -> Callable[..., ModelVersion]:
    """A registered version of a service."""

    def registered(service: Service = RETURNS, **changes: object) -> ModelVersion:
        return add("champion", service=service.key, model_type="linear", **changes)

    return registered


def lived(
    store: Store,
    service: Service = RETURNS,
    *,
    frame: pd.DataFrame = BARS,
    model_id: str = "champion",
    role: Role = Role.RECORD,
    noise: float = 1.0,
    hours: range = range(FIRST, 400),
) -> None:
    """Forecasts of those hours that know a tenth of the outcome, matched with what is known."""
    baseline = "zero" if service.target is Target.RETURN else "persistence"
    whole = bars_of_service(BARS, service, baseline)
    labels = whole.dataset.labels
    move = np.nan_to_num(labels.y - labels.persistence)
    draws = np.random.default_rng(5).normal(size=len(move)) * np.nanstd(move)
    value = labels.persistence + 0.1 * (move + noise * draws)
    rows = [
        forecast_row(service, START + n * HOUR, value=float(value[n]), model_id=model_id, role=role)
        for n in hours
    ]
    record_forecasts(store, rows)
    match_bars(store, [bars_of_service(frame, service, baseline)], now=NOW, patience_bars=5)


def measured(store: Store, version: ModelVersion, hours: float = 96, **options) -> LivePerformance:
    return measure_performance(
        store, version, **{"now": NOW, "window_hours": hours, "fee_bps": 1.0} | options
    )


def test_a_window_is_the_latest_bars_whose_outcome_is_due() -> None:
    due = list_due_bars(RETURNS, ALWAYS, now=NOW, size=3)
    assert due == tuple(START + n * HOUR for n in (394, 395, 396))
    assert list_due_bars(RETURNS, ALWAYS, now=NOW + timedelta(minutes=59), size=3) == due
    assert list_due_bars(RETURNS, ALWAYS, now=NOW + HOUR, size=3)[-1] == START + 397 * HOUR


def test_weeks_are_due_by_their_mondays() -> None:
    weekly = replace(RETURNS, timeframe=Timeframe("1w"))
    due = list_due_bars(weekly, ALWAYS, now=datetime(2024, 12, 5, 12, tzinfo=UTC), size=2)
    assert [f"{bar:%a %d %b}" for bar in due] == ["Mon 28 Oct", "Mon 04 Nov"]


def test_a_weekend_shortens_no_window() -> None:
    euro = replace(RETURNS, symbol="EUR/USD")
    monday = pd.Timestamp("2024-01-08 12:00Z").to_pydatetime()
    due = list_due_bars(euro, load_calendar("FX"), now=monday, size=24)
    assert len(due) == 24
    assert due[0] == pd.Timestamp("2024-01-05 09:00Z")
    assert due[-1] == pd.Timestamp("2024-01-08 08:00Z")


@pytest.mark.parametrize("service", [RETURNS, VOLATILITY], ids=["return", "volatility"])
def test_every_metric_is_the_librarys_own_on_the_window(
    store: Store, version: Callable[..., ModelVersion], service: Service
) -> None:
    lived(store, service)
    found = measured(store, version(service))
    rows = read_matched(store, service.key)
    window = rows.take(rows.bar >= np.datetime64(found.since[:19]))
    assert found.n == len(window) == 96
    y, said, naive = window.value, window.forecast, window.baseline
    assert found["mse"].value == pytest.approx(metrics.mse(y, said))
    assert found["mse"].baseline == pytest.approx(metrics.mse(y, naive))
    assert found["mae"].value == pytest.approx(metrics.mae(y, said))
    assert found["skill"].value == pytest.approx(metrics.r2_out_of_sample(y, said, naive))
    figures = metrics.direction_figures(y - window.persistence, said - window.persistence)
    for name in ("accuracy", "precision", "recall", "f1_score"):
        assert found[name].value == pytest.approx(getattr(figures, name))
    assert found["accuracy"].low <= found["accuracy"].value <= found["accuracy"].high


def test_r2_of_a_return_is_against_nothing_and_of_a_volatility_against_the_mean(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    lived(store)
    found, rows = measured(store, version()), read_matched(store, RETURNS.key)
    y, said = rows.value[-96:], rows.forecast[-96:]
    assert found["r2_score"].value == pytest.approx(1 - np.sum((y - said) ** 2) / np.sum(y**2))


def test_positions_are_sized_by_what_was_forecast_before_the_window(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    lived(store)
    found, rows = measured(store, version(), 24), read_matched(store, RETURNS.key)
    run_up = rows.take(slice(-24 - RUN_UP_BARS, None))
    positions = trading.positions_from_edge(run_up.forecast)[RUN_UP_BARS:]
    figures = trading.trading_figures(
        positions, run_up.next_return[RUN_UP_BARS:], fee_bps=1.0, bars_per_year=365 * 24
    )
    assert np.count_nonzero(positions) == 24
    for name in ("sharpe_ratio", "max_drawdown", "win_rate", "profit_factor"):
        assert found[name].value == pytest.approx(getattr(figures, name))
    assert found["max_drawdown"].baseline == 0.0


def test_a_volatility_names_no_side_and_has_no_trading_figures(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    lived(store, VOLATILITY)
    found = measured(store, version(VOLATILITY))
    assert "mse" in {measure.name for measure in found.measures}
    with pytest.raises(KeyError, match="no metric 'sharpe_ratio'"):
        found["sharpe_ratio"]


def test_a_challenger_is_measured_on_the_same_bars(
    store: Store, add: Callable[..., ModelVersion], version: Callable[..., ModelVersion]
) -> None:
    challenger = add("challenger", 2, service=RETURNS.key, model_type="linear")
    lived(store)
    lived(store, model_id="challenger", role=Role.SHADOW, noise=5.0)
    first, second = measured(store, version()), measured(store, challenger)
    assert first.n == second.n
    assert first["mse"].baseline == second["mse"].baseline
    assert first["mse"].value < second["mse"].value


def test_a_live_figure_stands_beside_the_one_at_promotion(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    lived(store)
    claimed = version(
        metrics={"mse": 0.25, "sharpe_ratio": None, "no_losses": True, "mae": math.nan}
    )
    found = measured(store, claimed, promotion=Promotion.of(claimed, None))
    assert found["mse"].at_promotion == 0.25
    assert found["sharpe_ratio"].at_promotion is None
    assert found["mae"].at_promotion is None


def test_missing_waiting_and_corrected_outcomes_are_counted(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    holed = BARS.drop(BARS.index[350])
    lived(store, frame=holed, hours=range(FIRST, 390))
    corrected = holed.copy()
    corrected.loc[BARS.index[370], "close"] *= 1.01
    match_bars(store, [bars_of_service(corrected, RETURNS, "zero")], now=NOW, patience_bars=5)
    found = measured(store, version())
    counts = found.completeness.counts
    assert counts == OutcomeCounts(forecasts=89, known=85, missing=4, revised=2)
    assert found.completeness.expected == 96
    assert found.completeness.forecast_share == pytest.approx(89 / 96)
    assert found.completeness.known_share == pytest.approx(85 / 96)
    assert found.n == 85


def test_nothing_matched_is_a_result_and_no_error(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    found = measured(store, version(), reference=Losses(np.ones(2000), np.full(2000, 2.0)))
    assert (found.n, found.measures) == (0, ())
    assert found.completeness.counts == OutcomeCounts()
    assert found.degradation is not None
    assert found.degradation.status is SkillStatus.INSUFFICIENT_DATA
    with pytest.raises(KeyError, match="nothing is matched"):
        found["mse"]


@pytest.mark.parametrize("hours", [1, 2])
def test_the_shortest_windows_are_measured_too(
    store: Store, version: Callable[..., ModelVersion], hours: int
) -> None:
    lived(store)
    found = measured(store, version(), hours)
    assert found.n == hours
    assert math.isfinite(found["mse"].value)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_window_without_a_bar_is_refused(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    with pytest.raises(SettingsError, match="MONITORING_WINDOW_HOURS"):
        measured(store, version(), 0.1)


def test_a_result_is_json(store: Store, version: Callable[..., ModelVersion]) -> None:
    lived(store)
    reference = Losses(np.ones(2000), np.full(2000, 2.0))
    found = measured(store, version(), reference=reference)
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["service"] == RETURNS.key
    assert read["completeness"]["counts"]["known"] == 96
    assert read["completeness"]["known_share"] == 1.0
    assert {"name", "value", "baseline", "at_promotion"} <= set(read["measures"][0])
    assert read["degradation"]["status"] == "no_skill"


def test_skill_that_is_gone_is_said_to_be_lost(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    """Forecasts that knew much of the outcome, and then none of it."""
    lived(store, noise=60.0)
    rng = np.random.default_rng(2)
    baseline = rng.exponential(size=3000)
    able = Losses(baseline * rng.uniform(0.3, 0.9, 3000), baseline)
    found = measured(store, version(), 168, reference=able).degradation
    assert found is not None
    assert (found.status, found.n, found.degraded) == (SkillStatus.LOST, 168, True)


def test_skill_is_judged_on_a_window_of_its_own(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    lived(store)
    reference = Losses(np.ones(2000), np.full(2000, 2.0))
    found = measured(store, version(), 24, reference=reference, decision_hours=120)
    assert (found.n, found["mse"].value > 0) == (24, True)
    assert found.degradation is not None
    assert found.degradation.n == 120


def test_the_same_skill_is_kept(store: Store, version: Callable[..., ModelVersion]) -> None:
    lived(store, noise=0.0)
    rng = np.random.default_rng(2)
    baseline = rng.exponential(size=3000)
    found = measured(store, version(), 168, reference=Losses(0.85 * baseline, baseline)).degradation
    assert found is not None
    assert found.status in {SkillStatus.KEPT, SkillStatus.NO_SKILL}
    assert not found.degraded


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return linear_bundle(tmp_path)[0]


def linear_bundle(tmp_path: Path, *, keep: bool = False) -> tuple[Bundle, Forecasts]:
    """A linear model of volatility, evaluated, in a bundle that may keep the record."""
    frame = make_bars(1500)
    target = TargetSpec(Target.VOLATILITY, 4)
    dataset = Dataset(frame, timeframe=VOLATILITY.timeframe, target=target)
    model = build_forecaster(default_recipe("linear", target), target)
    usable = np.flatnonzero(model.ready(dataset) & dataset.labels.valid)
    model.fit(dataset, usable[:600], usable[600:800], FitContext())
    held = usable[900:]
    whole = np.full(len(dataset), np.nan)
    whole[held] = model.predict(dataset, held)
    folds = np.zeros(len(dataset), dtype=np.int64)
    made = cut_record(dataset, held, whole, dataset.persistence, folds)
    evaluation = evaluate(made, bars_per_year=8760, fee_bps=0.0, reps=20)
    holdout = made if keep else None
    parts = bundle_parts(
        model, dataset, VOLATILITY, evaluation=evaluation.to_dict(), record=holdout
    )
    write_bundle(parts, tmp_path / "bundle", load_or_make_key(tmp_path / "key"))
    return open_bundle(tmp_path / "bundle"), made


def test_the_figures_at_promotion_are_those_of_the_evaluation(
    bundle: Bundle, version: Callable[..., ModelVersion]
) -> None:
    evaluation = evaluation_at_promotion(bundle)
    assert evaluation is not None
    promotion = Promotion.of(version(VOLATILITY), evaluation)
    assert promotion.figures["mse"] == evaluation["mse"].value
    assert promotion.skill == evaluation["skill"].value


def test_the_reference_is_the_record_of_the_holdout(
    tmp_path: Path, version: Callable[..., ModelVersion]
) -> None:
    bundle, made = linear_bundle(tmp_path, keep=True)
    known = reference_losses(bundle, version(VOLATILITY))
    assert known.model == pytest.approx(made.losses())
    assert known.baseline == pytest.approx(made.of_baseline().losses())


def test_without_one_the_reference_is_what_the_version_was_not_fitted_on(
    bundle: Bundle, version: Callable[..., ModelVersion]
) -> None:
    fitted = START + 1000 * HOUR
    made = version(VOLATILITY, notes={"fitted_until": fitted.isoformat()})
    known = reference_losses(bundle, made)
    # Bars after the cut and before those whose outcome is not known.
    assert len(known) == 1500 - 1000 - 1 - VOLATILITY.horizon
    assert known.model.mean() != known.baseline.mean()
    later = replace(made, notes={"fitted_until": "2030-01-01T00:00:00+00:00"})
    assert len(reference_losses(bundle, later)) == 0


def test_bars_stamped_before_the_calendars_are_counted_in_the_window(
    store: Store, version: Callable[..., ModelVersion]
) -> None:
    """Hours of New York by the full hour: the first opens half an hour before the session."""
    stocks = replace(RETURNS, venue="xnys", symbol="SPY/USD", horizon=1)
    sessions = pd.bdate_range("2024-04-01", "2024-04-26", tz="America/New_York")
    opens = [day + timedelta(hours=hour) for day in sessions for hour in range(9, 16)]
    index = pd.DatetimeIndex(opens).tz_convert("UTC").rename("open_time")
    market = Dataset(
        make_bars(len(index)).set_axis(index),
        timeframe=stocks.timeframe,
        target=TargetSpec(stocks.target, stocks.horizon),
        calendar=load_calendar("XNYS"),
    )
    record_forecasts(store, [forecast_row(stocks, bar) for bar in index.to_pydatetime()])
    now = index[-1].to_pydatetime() + HOUR
    bars = ServiceBars.of(stocks, market, default_recipe("zero", market.target))
    match_bars(store, [bars], now=now, patience_bars=5)
    found = measure_performance(
        store, version(stocks), now=now + HOUR, window_hours=70, fee_bps=1.0
    )
    assert found.n == found.completeness.expected == 70
    assert found.completeness.forecast_share == 1.0
