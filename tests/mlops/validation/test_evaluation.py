"""Evaluations: values, baselines beside them, intervals that respect overlap."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import r2_score

from mlops.errors import GateError
from mlops.service import Target
from mlops.validation.evaluation import Evaluation, evaluate

COSTS = {"bars_per_year": 8760.0, "fee_bps": 1.0}


@pytest.fixture(scope="module")
def volatility(volatility_evidence):
    return volatility_evidence().holdout


@pytest.fixture(scope="module")
def evaluation(volatility):
    return evaluate(volatility, **COSTS)


def test_each_metric_has_the_baselines_value_beside_it(volatility, evaluation):
    y, naive = volatility.y, volatility.baseline
    assert_allclose(evaluation["mse"].value, np.mean((y - volatility.forecast) ** 2))
    assert_allclose(evaluation["mse"].baseline, np.mean((y - naive) ** 2))
    assert_allclose(evaluation["r2_score"].value, r2_score(y, volatility.forecast))
    assert_allclose(evaluation["r2_score"].baseline, r2_score(y, naive))
    ratio = evaluation["mse"].value / evaluation["mse"].baseline
    assert_allclose(evaluation["mse_vs_baseline"].value, ratio)
    assert_allclose(evaluation["skill"].value, 1 - ratio)


def test_every_interval_holds_its_value(evaluation):
    for measure in evaluation.measures:
        assert measure.low <= measure.value <= measure.high, measure


def test_a_volatility_is_called_up_or_down_against_its_persistence(volatility, evaluation):
    up = volatility.y > volatility.persistence
    said_up = volatility.forecast > volatility.persistence
    assert_allclose(evaluation["accuracy"].value, np.mean(up == said_up))
    assert_allclose(evaluation["accuracy"].baseline, max(up.mean(), 1 - up.mean()))


def test_the_r2_of_a_return_is_against_no_move(record):
    y = np.random.default_rng(0).standard_normal(600) * 0.01 + 0.02
    evaluation = evaluate(record(y, 0.5 * y, target=Target.RETURN), **COSTS)
    assert_allclose(evaluation["r2_score"].value, 0.75)
    assert evaluation["r2_score"].baseline == 0.0


def test_a_direction_is_judged_by_its_log_loss(record):
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.2, 0.8, 800)
    up = (rng.uniform(size=800) < probability).astype(float)
    half = np.full(800, 0.5)
    rows = record(up, probability, target=Target.DIRECTION, persistence=half, returns=up - 0.5)
    evaluation = evaluate(rows, **COSTS)
    assert_allclose(evaluation["log_loss"].baseline, np.log(2))
    assert_allclose(evaluation["skill"].value, 1 - evaluation["log_loss"].value / np.log(2))
    assert evaluation["accuracy"].value > 0.6


def test_model_metrics_hold_each_defined_figure(evaluation):
    assert evaluation.metrics.r2_score == evaluation["r2_score"].value
    assert evaluation.metrics.max_drawdown == evaluation["max_drawdown"].value
    assert evaluation.baseline_metrics.mse == evaluation["mse"].baseline


def test_an_undefined_figure_is_left_out_of_the_model_metrics(record):
    y = np.random.default_rng(2).standard_normal(600)
    evaluation = evaluate(record(y, np.zeros(600), target=Target.RETURN), **COSTS)
    assert evaluation.metrics.accuracy is None
    assert evaluation.metrics.sharpe_ratio is None


def test_folds_show_where_the_skill_was(record):
    y = np.random.default_rng(3).standard_normal(1000)
    forecast = np.where(np.arange(1000) < 500, y, -y)
    folds = evaluate(record(y, forecast, target=Target.RETURN), **COSTS).folds
    assert [(fold.n, fold.skill) for fold in folds] == [(500, 1.0), (500, -3.0)]


def test_rows_without_a_forecast_are_counted(record):
    y = np.random.default_rng(4).standard_normal(700)
    forecast = np.where(np.arange(700) % 7, 0.1 * y, np.nan)
    evaluation = evaluate(record(y, forecast, target=Target.RETURN), **COSTS)
    assert (evaluation.n, evaluation.rows) == (600, 700)


def test_a_record_without_a_forecast_is_an_error(record):
    with pytest.raises(GateError, match="none of 5"):
        evaluate(record(np.ones(5), np.full(5, np.nan), target=Target.RETURN), **COSTS)


def test_an_evaluation_survives_json_exactly(record):
    y = np.random.default_rng(5).standard_normal(600)
    for forecast in (np.zeros(600), y):
        evaluation = evaluate(record(y, forecast, target=Target.RETURN), **COSTS)
        text = json.dumps(evaluation.to_dict(), allow_nan=False)
        assert Evaluation.from_dict(json.loads(text)) == evaluation


def test_an_unknown_metric_names_the_known_ones(evaluation):
    with pytest.raises(KeyError, match="mse_vs_baseline"):
        evaluation["beauty"]


def test_an_evaluation_reads_as_a_table(evaluation):
    assert "r2_score" in str(evaluation)
    assert "baseline" in str(evaluation)


def test_the_interval_of_skill_holds_under_overlapping_labels(record):
    """200 records of 600 rows, 12-bar labels, true skill 0: Monte-Carlo error .015 at .95."""
    rng = np.random.default_rng(6)
    held = 0
    for seed in range(200):
        shocks = rng.standard_normal((3, 611))
        y, first, second = (np.convolve(s, np.ones(12) / 12, "valid") for s in shocks)
        rows = record(
            y, 0.5 * first, target=Target.VOLATILITY, horizon=12, persistence=0.5 * second
        )
        skill = evaluate(rows, **COSTS, reps=200, seed=seed)["skill"]
        held += skill.low <= 0.0 <= skill.high
    assert held / 200 >= 0.95 - 3 * 0.015
