"""The figures of the monitoring dashboard, by the platform's names.

    average_mse       1 / n * sum over deployed versions of MSE / variance of the same outcomes
    average_accuracy  the same mean of the share of moves that were called right

An MSE is divided by the variance of the outcomes, because services forecast different things: the
squared error of a price is no number beside that of a volatility. So 1 is no better than a
constant, and 0.08 is an R2 of 0.92.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mlops.json_values import from_json
from mlops.monitoring.drift.report import Recommendation
from mlops.store import Store
from mlops.store.dashboard import (
    DriftWord,
    ErrorSums,
    LiveErrors,
    count_deployments,
    count_models,
    read_drift_words,
    read_live_errors,
)

LEAST_BARS = 24
"""A version with fewer known outcomes is left out of the averages."""

MOST_HOURS = 30 * 24.0
"""Older outcomes are left out, unless MONITORING_WINDOW_HOURS is longer."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How many there are now; a service is training while it holds its lease."""

    total_models: int
    deployed_models: int
    training_models: int
    active_experiments: int


@dataclass(frozen=True, slots=True)
class PerformanceFigures:
    """Averages over the deployed versions; None where nothing can be averaged."""

    average_mse: float | None
    average_accuracy: float | None
    deployment_success_rate: float | None


@dataclass(frozen=True, slots=True)
class DriftAlert:
    """A version whose newest deciding look recommends something."""

    model_id: str
    drift_score: float | None
    recommendation: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The dashboard; `to_dict` has the platform's keys and no others."""

    summary: Summary
    performance_metrics: PerformanceFigures
    drift_alerts: tuple[DriftAlert, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"drift_alerts": [asdict(alert) for alert in self.drift_alerts]}


def read_dashboard(store: Store, *, window_hours: float) -> Dashboard:
    """The figures of this moment.

    Args:
        store: The store.
        window_hours: MONITORING_WINDOW_HOURS.
    """
    most_hours = max(MOST_HOURS, window_hours)
    with store.read() as connection:
        counts = count_models(connection)
        deployments = count_deployments(connection)
        errors = read_live_errors(connection, most_hours=most_hours)
        words = read_drift_words(connection, quiet=Recommendation.NO_ACTION_NEEDED)
    judged = [sums for version in errors if (sums := choose_sums(version)) is not None]
    return Dashboard(
        summary=Summary(
            total_models=counts.versions,
            deployed_models=counts.deployed,
            training_models=counts.training,
            active_experiments=counts.running_tests,
        ),
        performance_metrics=PerformanceFigures(
            average_mse=_average(sums.relative_mse for sums in judged),
            average_accuracy=_average(sums.accuracy for sums in judged),
            deployment_success_rate=(
                deployments.done / deployments.ended if deployments.ended else None
            ),
        ),
        drift_alerts=tuple(_to_alert(word) for word in words),
    )


def choose_sums(version: LiveErrors) -> ErrorSums | None:
    """The forecasts that a version is measured by; None where too few outcomes are known.

    A version that went live lately has made too few: until then its service's forecasts of record
    count, which its predecessor made.
    """
    enough = (sums for sums in (version.own, version.record) if sums.bars >= LEAST_BARS)
    return next(enough, None)


def _average(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None


def _to_alert(word: DriftWord) -> DriftAlert:
    score = from_json(dict(word.report)).get("score")
    return DriftAlert(word.model_id, score, word.recommendation)
