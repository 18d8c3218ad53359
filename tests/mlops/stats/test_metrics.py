"""Forecast metrics against scikit-learn, and the platform's ModelMetrics."""

import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mlops.errors import GateError
from mlops.stats import metrics
from mlops.stats.metrics import ModelMetrics, direction_figures


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    y = rng.standard_normal(400)
    return y, 0.3 * y + 0.5 * rng.standard_normal(400) + 0.1


def test_errors_agree_with_scikit_learn(pair):
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    assert_allclose(metrics.mse(*pair), mean_squared_error(*pair))
    assert_allclose(metrics.mae(*pair), mean_absolute_error(*pair))
    assert_allclose(metrics.r2_score(*pair), r2_score(*pair))


def test_hit_rates_agree_with_scikit_learn(pair):
    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

    up, said_up = (side > 0 for side in pair)
    found = direction_figures(*pair)
    assert_allclose(found.accuracy, accuracy_score(up, said_up))
    assert_allclose(found.precision, precision_score(up, said_up))
    assert_allclose(found.recall, recall_score(up, said_up))
    assert_allclose(found.f1_score, f1_score(up, said_up))
    assert_allclose(found.base_rate, max(up.mean(), 1 - up.mean()))


def test_log_loss_agrees_with_scikit_learn(pair):
    from sklearn.metrics import log_loss

    probability = 1 / (1 + np.exp(-pair[1]))
    assert_allclose(
        metrics.log_loss(pair[0] > 0, probability).mean(), log_loss(pair[0] > 0, probability)
    )


def test_a_certain_and_wrong_probability_costs_a_bounded_loss():
    assert_allclose(metrics.log_loss([1.0], [0.0]), -math.log(1e-6))


def test_rows_that_do_not_move_are_left_out_and_reported():
    found = direction_figures([1, -1, 0, 1], [1, 1, 1, 0])
    assert (found.accuracy, found.n) == (0.5, 2)
    assert_allclose(found.coverage, 2 / 3)


def test_a_forecast_without_a_side_has_no_accuracy():
    assert math.isnan(direction_figures([1.0, -1.0], [0.0, 0.0]).accuracy)


def test_out_of_sample_r2_is_against_the_naive_forecast():
    y = np.array([1.0, 2.0, 3.0])
    assert metrics.r2_out_of_sample(y, y, 0 * y) == 1.0
    assert metrics.r2_out_of_sample(y, 0 * y, 0 * y) == 0.0
    assert math.isnan(metrics.r2_out_of_sample(y, y + 1, y))


def test_the_words_of_the_platform_make_metrics():
    found = ModelMetrics(
        mse=0.05, mae=0.03, r2_score=0.92, accuracy=0.85, precision=0.8, recall=0.82, f1_score=0.81
    )
    assert found.sharpe_ratio is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 1.2),
        ("mse", -1.0),
        ("mse", math.nan),
        ("mae", math.inf),
        ("r2_score", 1.01),
        ("max_drawdown", 0.1),
        ("sharpe_ratio", math.inf),
        ("profit_factor", -0.1),
    ],
)
def test_a_figure_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(GateError, match=name):
        ModelMetrics(**{"mse": 1.0, "mae": 1.0} | {name: value})


@pytest.mark.parametrize("profit_factor", [None, 1.5, math.inf])
def test_metrics_survive_json(profit_factor):
    found = ModelMetrics(mse=1.0, mae=0.5, profit_factor=profit_factor)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert ModelMetrics.from_dict(json.loads(text)) == found
