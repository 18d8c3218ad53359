"""The hourly look at every service: drift and lost skill, and the alerts and triggers they raise.

    bars that have closed -> drift report, live figures -> row of the look, alerts, triggers

A look is idempotent: the same bar decides nothing twice. The row of a look, the triggers and the
alerts that it raises are one transaction, so that none of them is written without the others. An
error in one service does not stop the looks at the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from mlops.alerts.conditions import (
    close_alerts_of_replaced,
    raise_unreadable_data,
    update_data_quality_alert,
    update_version_alert,
)
from mlops.errors import DataError, StoreError
from mlops.features.dataset import Dataset
from mlops.logs import bound
from mlops.models.bundle import Bundle
from mlops.monitoring.data_quality import BarCounts, find_data_problems, is_data_sound
from mlops.monitoring.drift.report import (
    DriftConfig,
    DriftReport,
    DriftState,
    Recommendation,
    first_state,
    judge_hourly,
)
from mlops.monitoring.drift.version_drift import VersionDrift, current_frame
from mlops.monitoring.performance.degradation import SkillStatus
from mlops.monitoring.performance.live import LivePerformance, measure_performance
from mlops.monitoring.performance.outcomes import Matching, match_outcomes
from mlops.monitoring.performance.promotion import (
    Promotion,
    evaluation_at_promotion,
    reference_losses,
)
from mlops.service import Service
from mlops.store import ModelVersion, Route, Store, get_route, get_version, list_routes
from mlops.store.alerts import Condition, Severity
from mlops.store.engine import Connection
from mlops.store.monitor_runs import CheckRow, WatchRow, last_check, list_watches, write_check
from mlops.store.triggers import Cause, TriggerLimits, TriggerReason, raise_trigger

log = logging.getLogger(__name__)

FEE_BPS = 10.0
_CONDITIONS = {
    Cause.DRIFT: Condition.DATA_DRIFT,
    Cause.PERFORMANCE: Condition.PERFORMANCE_DEGRADED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """The thresholds and windows of the monitor.

    Attributes:
        drift_threshold: Least effect of drift that counts, a Kolmogorov distance.
        decision_window_hours: Length of the windows on which decisions are made.
        performance_threshold: Share of the skill at promotion whose loss counts.
        fee_for: Gives the costs of trading a symbol in bps.
        limits: How often triggers may be raised.
        reference_folder: Where fitted references are kept for other processes; None: nowhere.
    """

    drift_threshold: float = 0.1
    decision_window_hours: float = 168.0
    performance_threshold: float = 0.15
    fee_for: Callable[[str], float] = lambda symbol: FEE_BPS
    limits: TriggerLimits = field(default_factory=TriggerLimits)
    reference_folder: Path | None = None

    def drift_config(self, service: Service) -> DriftConfig:
        """The levels at which drift of a service is decided."""
        step = service.timeframe.step
        window = round(timedelta(hours=self.decision_window_hours) / step)
        return DriftConfig(effect_threshold=self.drift_threshold, window_bars=window, step=step)

    def fit_drift(self, bundle: Bundle, service: Service) -> VersionDrift:
        """Fit the drift reference of a version, or read it where it was kept."""
        config = self.drift_config(service)
        return VersionDrift(bundle, config, reference_folder=self.reference_folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at one version of a service.

    Attributes:
        report: The drift report; None where drift could not be judged.
        performance: The live figures; None between the windows that decide.
        check: The id of the row of this look; empty where nothing was written.
        triggers: The ids of the triggers that the look raised, each with its cause.
        why_not: Why nothing was judged or written; empty where something was.
    """

    service: str
    model_id: str
    report: DriftReport | None = None
    performance: LivePerformance | None = None
    check: str = ""
    triggers: tuple[tuple[str, Cause], ...] = ()
    why_not: str = ""


class Monitor:
    """Looks at the champions of a store, and at the versions that somebody has watched.

    The references that were fitted stay in memory from look to look.

    Args:
        open_bundle: Opens the bundle of a version.
        bars_of: Gives the bars of a service; None where no bars are kept.
    """

    def __init__(
        self,
        store: Store,
        *,
        open_bundle: Callable[[ModelVersion], Bundle],
        bars_of: Callable[[Service], Dataset | None],
        config: MonitorConfig | None = None,
    ) -> None:
        self.store = store
        self.open_bundle = open_bundle
        self.bars_of = bars_of
        self.config = config or MonitorConfig()
        self._drift_by_version: dict[str, VersionDrift] = {}

    def match_outcomes(
        self, now: datetime, services: Collection[str] | None = None
    ) -> tuple[Matching, ...]:
        """Join forecasts with the outcomes that are known at market time ``now``."""

        def bars_of(service: Service) -> Dataset | None:
            wanted = services is None or service.key in services
            return self.bars_of(service) if wanted else None

        matchings = match_outcomes(self.store, bars_of, now=now)
        return tuple(
            matching for matching in matchings if services is None or matching.service in services
        )

    def look(self, now: datetime, services: Collection[str] | None = None) -> tuple[Look, ...]:
        """Look at the champion of each service, or of these, at market time ``now``."""
        routes = list_routes(self.store)
        wanted = [route for route in routes if services is None or route.service in services]
        looks = tuple(self._look_safely(route, route.champion, now) for route in wanted)
        try:
            close_alerts_of_replaced(self.store, now, services)
        except StoreError as error:
            # The looks are written; the next run closes these alerts.
            log.warning("alerts of versions that were replaced go on: %s", error)
        return looks

    def look_watched(
        self, now: datetime, services: Collection[str] | None = None
    ) -> tuple[Look, ...]:
        """Look at each version that somebody has watched and whose interval has passed.

        `look` looks at champions every hour, so they are left out here. A look at another version
        is written and raises alerts, but no trigger.
        """
        looks = []
        for watch in list_watches(self.store):
            if services is not None and watch.service not in services:
                continue
            route = get_route(self.store, watch.service)
            if route is None or route.retired_at or watch.model_id == route.champion:
                continue
            if self._is_look_due(watch, now):
                looks.append(self._look_safely(route, watch.model_id, now))
        return tuple(looks)

    def _is_look_due(self, watch: WatchRow, now: datetime) -> bool:
        before = last_check(self.store, watch.service, watch.model_id)
        try:
            service = Service.parse(watch.service)
            dataset = self.bars_of(service)
            bars = None if dataset is None else _closed_bars(dataset.frame, service, now)
        except Exception:
            # The look meets the same error, and reports it.
            return True
        if bars is None or not len(bars):
            return True
        return watch.due(bars.index[-1].to_pydatetime(), None if before is None else before.bar)

    def _look_safely(self, route: Route, model_id: str, now: datetime) -> Look:
        service = route.service
        with bound(service=service, model_id=model_id):
            try:
                return self._look(route, model_id, now)
            except Exception as error:
                # An error in the bars or the bundle of one service must not stop the other looks.
                log.exception("service=%s model_id=%s was not watched", service, model_id)
                why = f"{type(error).__name__}: {error}"
                if isinstance(error, DataError):
                    self._raise_unreadable_data(service, model_id, why, now)
                return Look(service=service, model_id=model_id, why_not=why)

    def _raise_unreadable_data(self, service: str, model_id: str, why: str, now: datetime) -> None:
        try:
            with self.store.write() as connection:
                raise_unreadable_data(connection, service, model_id, why=why, at=now)
        except StoreError as error:
            log.warning("service=%s nobody is told that %s: %s", service, why, error)

    def _look(self, route: Route, model_id: str, now: datetime) -> Look:
        look = Look(service=route.service, model_id=model_id)
        if model_id == route.baseline:
            return replace(look, why_not="the baseline serves: there is nothing to retrain")
        service = Service.parse(route.service)
        dataset = self.bars_of(service)
        if dataset is None:
            return replace(look, why_not="nobody keeps bars of this market here")
        version = get_version(self.store, model_id)
        if model_id not in self._drift_by_version:
            bundle = self.open_bundle(version)
            self._drift_by_version[model_id] = self.config.fit_drift(bundle, service)
        drift = self._drift_by_version[model_id]
        bars = _closed_bars(dataset.frame, service, now)[-drift.bars_needed :]
        timeframe, calendar = service.timeframe, dataset.calendar
        recent = Dataset(bars, timeframe=timeframe, target=dataset.target, calendar=calendar)
        frame = current_frame(drift.bundle, recent)
        before = last_check(self.store, route.service, model_id)
        state = DriftState.from_dict(before.state) if before else first_state(drift.reference)
        report, state = judge_hourly(drift.reference, frame, state, drift.config)
        look = replace(look, report=report)
        if not len(frame):
            return replace(look, why_not="there are no bars yet")
        performance = self._measure_performance(version, drift, now) if report.official else None
        window = pd.DatetimeIndex(frame.index[-drift.config.window_bars :])
        opens = pd.DatetimeIndex(bars.index)
        counts = BarCounts.of(opens, window, timeframe=timeframe, calendar=calendar)
        row = CheckRow(
            service=route.service,
            model_id=model_id,
            bar=frame.index[-1].to_pydatetime(),
            at=now,
            recommendation=str(report.recommendation),
            official=report.official,
            report=report.to_dict(),
            performance=None if performance is None else performance.to_dict(),
            state=state.to_dict(),
            bars=counts.to_dict(),
        )
        retrains = model_id == route.champion
        triggers = self._write(row, report, performance, counts, retrains=retrains)
        if triggers is None:
            return replace(look, why_not="this bar was looked at before")
        return replace(look, performance=performance, check=row.id, triggers=triggers)

    def _measure_performance(
        self, version: ModelVersion, drift: VersionDrift, now: datetime
    ) -> LivePerformance:
        """Measure a decision window, judged at its share of the budget of false alarms."""
        config = drift.config
        return measure_performance(
            self.store,
            version,
            now=now,
            window_hours=self.config.decision_window_hours,
            fee_bps=self.config.fee_for(version.symbol),
            promotion=Promotion.of(version, evaluation_at_promotion(drift.bundle)),
            reference=reference_losses(drift.bundle, version),
            threshold=self.config.performance_threshold,
            alpha=config.false_alarm_budget / config.windows_per_budget,
        )

    def _write(
        self,
        row: CheckRow,
        report: DriftReport,
        performance: LivePerformance | None,
        bars: BarCounts,
        *,
        retrains: bool,
    ) -> tuple[tuple[str, Cause], ...] | None:
        """Write a look, its alerts and its triggers; None where this bar was looked at before."""
        degradation = None if performance is None else performance.degradation
        skill = None if degradation is None else degradation.status
        lost = degradation is not None and skill is SkillStatus.LOST
        reasons = {
            Cause.DRIFT: "; ".join(report.reasons) if report.drift_detected else "",
            Cause.PERFORMANCE: degradation.reason if degradation is not None and lost else "",
        }
        # Too few outcomes do not show that a version still has its skill.
        is_over = {Cause.DRIFT: row.official, Cause.PERFORMANCE: skill is SkillStatus.KEPT}
        urgent = report.recommendation is Recommendation.RETRAIN_IMMEDIATELY
        severity = Severity.CRITICAL if urgent else Severity.WARNING
        with self.store.write() as connection:
            if not write_check(connection, row):
                return None
            problems, is_sound = find_data_problems(report, bars), is_data_sound(report, bars)
            update_data_quality_alert(connection, row, problems, is_sound=is_sound)
            for cause, condition in _CONDITIONS.items():
                update_version_alert(
                    connection,
                    row,
                    condition,
                    reasons[cause],
                    severity=severity,
                    is_over=is_over[cause],
                )
            columns = {Cause.DRIFT: report.behind, Cause.PERFORMANCE: ()}
            triggers = [
                (self._raise_trigger(connection, row, cause, reason, columns[cause]), cause)
                for cause, reason in reasons.items()
                if reason and retrains
            ]
        return tuple((made, cause) for made, cause in triggers if made is not None)

    def _raise_trigger(
        self,
        connection: Connection,
        row: CheckRow,
        cause: Cause,
        text: str,
        columns: tuple[str, ...],
    ) -> str | None:
        reason = TriggerReason(
            service=row.service,
            cause=cause,
            watermark=row.bar.isoformat(),
            champion=row.model_id,
            text=text,
            verdict=row.id,
            columns=columns,
        )
        return raise_trigger(connection, reason, at=row.at, limits=self.config.limits)


def _closed_bars(frame: pd.DataFrame, service: Service, now: datetime) -> pd.DataFrame:
    """The bars that had closed at market time ``now``."""
    closed: pd.DataFrame = frame[frame.index <= pd.Timestamp(now - service.timeframe.step)]
    return closed
