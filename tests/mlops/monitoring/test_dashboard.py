"""The dashboard has the platform's keys, and averages over what has enough outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mlops.monitoring.dashboard import LEAST_BARS, choose_sums, read_dashboard
from mlops.store import ModelVersion, Status, Store, Why
from mlops.store.dashboard import ErrorSums, LiveErrors
from mlops.store.forecasts import Role
from mlops.store.outcomes import read_matched
from mlops.store.routes import begin_route
from tests.mlops.store.test_dashboard import BASELINE, OTHER, look, write_bars
from tests.stores import NOW, SERVICE, add, began, store, url

__all__ = ["add", "began", "store", "url"]

Add = Callable[..., ModelVersion]
ETH = "sample.eth-usd.1h.return.24"


def relative_mse(store: Store, service: str, model_id: str) -> float:
    rows = read_matched(store, service, model_id=model_id)
    return float(((rows.forecast - rows.value) ** 2).mean() / rows.value.var())


def test_an_empty_store_has_every_key_and_no_figure(store: Store) -> None:
    assert read_dashboard(store, window_hours=24.0).to_dict() == {
        "summary": {
            "total_models": 0,
            "deployed_models": 0,
            "training_models": 0,
            "active_experiments": 0,
        },
        "performance_metrics": {
            "average_mse": None,
            "average_accuracy": None,
            "deployment_success_rate": None,
        },
        "drift_alerts": [],
    }


def test_the_average_is_over_the_deployed_versions_of_all_services(began: Store, add: Add) -> None:
    add(OTHER, service=ETH)
    with began.write() as connection:
        begin_route(connection, ETH, OTHER, Why(NOW))
    write_bars(began, 40)
    write_bars(began, 60, service=ETH, model_id=OTHER, seed=8)
    found = read_dashboard(began, window_hours=24.0).performance_metrics.average_mse
    each = (relative_mse(began, SERVICE, BASELINE), relative_mse(began, ETH, OTHER))
    assert found == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize(("known", "is_there"), [(LEAST_BARS - 1, False), (LEAST_BARS, True)])
def test_a_service_counts_from_24_known_outcomes_on(
    began: Store, known: int, is_there: bool
) -> None:
    write_bars(began, 40, known=known)
    metrics = read_dashboard(began, window_hours=24.0).performance_metrics
    assert (metrics.average_mse is not None) is is_there
    assert (metrics.average_accuracy is not None) is is_there


def test_a_version_that_went_live_lately_is_measured_by_the_record_of_its_service() -> None:
    few, many = ErrorSums(bars=LEAST_BARS - 1), ErrorSums(bars=LEAST_BARS)
    lately = LiveErrors(SERVICE, OTHER, own=few, record=many)
    assert choose_sums(lately) is many
    assert choose_sums(replace(lately, own=replace(many, moves=1))) == replace(many, moves=1)
    assert choose_sums(replace(lately, record=few)) is None


def test_a_challengers_forecasts_beside_the_record_do_not_count(began: Store, add: Add) -> None:
    add(OTHER, 2, status=Status.CHALLENGER)
    write_bars(began, 40)
    before = read_dashboard(began, window_hours=24.0)
    write_bars(began, 40, model_id=OTHER, role=Role.SHADOW, seed=9, known=0)
    assert (
        read_dashboard(began, window_hours=24.0).performance_metrics == before.performance_metrics
    )


def test_a_drift_alert_tells_score_and_recommendation(began: Store) -> None:
    look(began, BASELINE, 12, "RETRAIN_SOON")
    assert read_dashboard(began, window_hours=24.0).to_dict()["drift_alerts"] == [
        {"model_id": BASELINE, "drift_score": 0.12, "recommendation": "RETRAIN_SOON"}
    ]
