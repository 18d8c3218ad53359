"""Checks of any version by its id: drift on given bars, performance on recorded outcomes.

What was read of a version's bundle is kept, because notebooks check a version again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from mlops.models.bundle import Bundle
from mlops.monitoring.drift.version_drift import VersionDrift
from mlops.monitoring.monitor import MonitorConfig
from mlops.monitoring.performance.degradation import Losses
from mlops.monitoring.performance.live import LivePerformance, measure_performance
from mlops.monitoring.performance.promotion import (
    Promotion,
    evaluation_at_promotion,
    reference_losses,
)
from mlops.store import Store, get_version


class VersionChecks:
    """Checks versions of a store.

    Args:
        open_bundle: Opens the bundle of a version by its id.
    """

    def __init__(
        self, store: Store, open_bundle: Callable[[str], Bundle], config: MonitorConfig
    ) -> None:
        self.store = store
        self.open_bundle = open_bundle
        self.config = config
        self._drift: dict[str, VersionDrift] = {}
        self._promoted: dict[str, tuple[Promotion, Losses]] = {}

    def drift_of(self, model_id: str) -> VersionDrift:
        """The drift reference of a version.

        Raises:
            VersionNotFound: when there is no such version.
        """
        if model_id not in self._drift:
            bundle = self.open_bundle(model_id)
            self._drift[model_id] = self.config.fit_drift(bundle, bundle.service)
        return self._drift[model_id]

    def measure_performance(
        self, model_id: str, *, now: datetime, window_hours: float
    ) -> LivePerformance:
        """A version's figures on its latest recorded outcomes at market time ``now``.

        Raises:
            VersionNotFound: when there is no such version.
        """
        version = get_version(self.store, model_id)
        if model_id not in self._promoted:
            bundle = self.open_bundle(model_id)
            promotion = Promotion.of(version, evaluation_at_promotion(bundle))
            self._promoted[model_id] = promotion, reference_losses(bundle, version)
        promotion, reference = self._promoted[model_id]
        return measure_performance(
            self.store,
            version,
            now=now,
            window_hours=window_hours,
            decision_hours=self.config.decision_window_hours,
            fee_bps=self.config.fee_for(version.symbol),
            promotion=promotion,
            reference=reference,
            threshold=self.config.performance_threshold,
        )
