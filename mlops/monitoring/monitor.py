"""One look at every service: outcomes, drift and lost skill, and what follows from them.

A look is idempotent: the same bar decides nothing twice. What it found, the reason to retrain
and the alert are one transaction, so that none is without the others. One service's trouble
leaves the others alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from mlops.alerts.conditions import close_alerts_of_replaced
from mlops.errors import DataError, StoreError
from mlops.features.dataset import Dataset
from mlops.logs import bound
from mlops.models.bundle import Bundle
from mlops.monitoring.data_quality import BarCounts, tell_of_data, tell_of_unreadable
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
from mlops.store.alerts import Condition, Severity, Trouble, raise_alert, recover_alert
from mlops.store.engine import Connection
from mlops.store.monitor_runs import CheckRow, WatchRow, last_check, list_watches, write_check
from mlops.store.triggers import Cause, Limits, Reason, raise_trigger

log = logging.getLogger(__name__)

FEE_BPS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """How closely services are watched; windows in hours, shares of one.

    ``fee_for`` gives the costs of trading a symbol in bps; in the folder ``reference_folder`` fitted
    references are kept for other processes.
    """

    drift_threshold: float = 0.1
    decision_window_hours: float = 168.0
    performance_threshold: float = 0.15
    fee_for: Callable[[str], float] = lambda symbol: FEE_BPS
    limits: Limits = field(default_factory=Limits)
    reference_folder: Path | None = None

    def drift_config(self, service: Service) -> DriftConfig:
        """The levels at which a service's drift is decided."""
        step = service.timeframe.step
        window = round(timedelta(hours=self.decision_window_hours) / step)
        return DriftConfig(effect_threshold=self.drift_threshold, window_bars=window, step=step)

    def fit_drift(self, bundle: Bundle, service: Service) -> VersionDrift:
        """A version's reference, ready to be looked at."""
        return VersionDrift(
            bundle, self.drift_config(service), reference_folder=self.reference_folder
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at a service; ``why_not`` says why nothing was judged.

    ``check`` is the id of its row, ``triggers`` those of the reasons to retrain it gave.
    """

    service: str
    model_id: str
    report: DriftReport | None = None
    performance: LivePerformance | None = None
    check: str = ""
    triggers: tuple[tuple[str, Cause], ...] = ()
    why_not: str = ""


class Monitor:
    """Watches the champions of a store, and what somebody wants watched besides.

    ``open_bundle`` opens a version, ``bars_of`` gives a service's bars (None where nobody keeps
    any). What was fitted for a version is kept between looks.
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
        self._watched: dict[str, VersionDrift] = {}

    def match_outcomes(
        self, now: datetime, services: Collection[str] | None = None
    ) -> tuple[Matching, ...]:
        """Join forecasts with the outcomes that are known at market time ``now``."""

        def bars_of(service: Service) -> Dataset | None:
            wanted = services is None or service.key in services
            return self.bars_of(service) if wanted else None

        found = match_outcomes(self.store, bars_of, now=now)
        return tuple(one for one in found if services is None or one.service in services)

    def look(self, now: datetime, services: Collection[str] | None = None) -> tuple[Look, ...]:
        """Look at the champion of each service, or of these, at market time ``now``."""
        routes = list_routes(self.store)
        wanted = [route for route in routes if services is None or route.service in services]
        looked = tuple(self._look_safely(route, route.champion, now) for route in wanted)
        try:
            close_alerts_of_replaced(self.store, now, services)
        except StoreError as error:
            # What was looked at stands; the next look ends them.
            log.warning("alerts of versions that were replaced go on: %s", error)
        return looked

    def look_watched(
        self, now: datetime, services: Collection[str] | None = None
    ) -> tuple[Look, ...]:
        """Look at each version that somebody has watched and whose time has come.

        A champion is looked at with the others, every hour. What is found of any other version
        is on record and told, but retrains nothing.
        """
        found = []
        for row in list_watches(self.store):
            if services is not None and row.service not in services:
                continue
            route = get_route(self.store, row.service)
            if route is None or row.model_id == route.champion or not self._is_due(row, now):
                continue
            found.append(self._look_safely(route, row.model_id, now))
        return tuple(found)

    def _is_due(self, row: WatchRow, now: datetime) -> bool:
        before = last_check(self.store, row.service, row.model_id)
        try:
            service = Service.parse(row.service)
            dataset = self.bars_of(service)
            bars = None if dataset is None else _known(dataset.frame, service, now)
        except Exception:
            # The look says why.
            return True
        if bars is None or not len(bars):
            return True
        return row.due(bars.index[-1].to_pydatetime(), None if before is None else before.bar)

    def _look_safely(self, route: Route, model_id: str, now: datetime) -> Look:
        with bound(service=route.service, model_id=model_id):
            try:
                return self._look(route, model_id, now)
            except Exception as error:
                # Nothing that one service's bars or bundle do may leave the others unwatched.
                log.exception("service=%s model_id=%s was not watched", route.service, model_id)
                why = f"{type(error).__name__}: {error}"
                if isinstance(error, DataError):
                    self._tell_unreadable(route.service, model_id, why, now)
                return Look(service=route.service, model_id=model_id, why_not=why)

    def _tell_unreadable(self, service: str, model_id: str, why: str, now: datetime) -> None:
        try:
            with self.store.write() as connection:
                tell_of_unreadable(connection, service, model_id, why=why, at=now)
        except StoreError as error:
            log.warning("service=%s nobody is told that %s: %s", service, why, error)

    def _look(self, route: Route, model_id: str, now: datetime) -> Look:
        nothing = Look(service=route.service, model_id=model_id)
        if model_id == route.baseline:
            return replace(nothing, why_not="the baseline serves: there is nothing to retrain")
        service = Service.parse(route.service)
        dataset = self.bars_of(service)
        if dataset is None:
            return replace(nothing, why_not="nobody keeps bars of this market here")
        version = get_version(self.store, model_id)
        drift = self._drift_of(version, service)
        bars = _known(dataset.frame, service, now)
        recent = Dataset(
            bars[-_needed(drift) :],
            timeframe=service.timeframe,
            target=dataset.target,
            calendar=dataset.calendar,
        )
        frame = current_frame(drift.bundle, recent)
        before = last_check(self.store, route.service, model_id)
        state = DriftState.from_dict(before.state) if before else first_state(drift.reference)
        report, after = judge_hourly(drift.reference, frame, state, drift.config)
        if not len(frame):
            return replace(nothing, report=report, why_not="there are no bars yet")
        performance = self._performance(version, drift, now) if report.official else None
        row = CheckRow(
            service=route.service,
            model_id=model_id,
            bar=frame.index[-1].to_pydatetime(),
            at=now,
            recommendation=str(report.recommendation),
            official=report.official,
            report=report.to_dict(),
            performance=None if performance is None else performance.to_dict(),
            state=after.to_dict(),
            bars=BarCounts.of(
                pd.DatetimeIndex(bars.index),
                pd.DatetimeIndex(frame.index[-drift.config.window_bars :]),
                timeframe=service.timeframe,
                calendar=dataset.calendar,
            ).to_dict(),
        )
        serves = model_id == route.champion
        triggers = self._write(row, report, performance, retrains=serves)
        if triggers is None:
            return replace(nothing, report=report, why_not="this bar was looked at before")
        return replace(
            nothing, report=report, performance=performance, check=row.id, triggers=triggers
        )

    def _drift_of(self, version: ModelVersion, service: Service) -> VersionDrift:
        if version.model_id not in self._watched:
            bundle = self.open_bundle(version)
            self._watched[version.model_id] = self.config.fit_drift(bundle, service)
        return self._watched[version.model_id]

    def _performance(
        self, version: ModelVersion, drift: VersionDrift, now: datetime
    ) -> LivePerformance:
        """Judged on the windows that decide, each at its part of the budget of false alarms."""
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
        *,
        retrains: bool,
    ) -> tuple[tuple[str, Cause], ...] | None:
        """The look and what follows from it; None where this bar was looked at before."""
        with self.store.write() as connection:
            if not write_check(connection, row):
                return None
            found = [(Cause.DRIFT, "; ".join(report.reasons))] if report.drift_detected else []
            if _lost(performance):
                assert performance is not None
                assert performance.degradation is not None
                found.append((Cause.PERFORMANCE, performance.degradation.reason))
            _tell(connection, row, report, dict(found), kept=_kept(performance))
            about = {Cause.DRIFT: report.behind}
            rung = [
                (self._trigger(connection, row, cause, text, about.get(cause, ())), cause)
                for cause, text in found
                if retrains
            ]
        return tuple((made, cause) for made, cause in rung if made is not None)

    def _trigger(
        self, connection: Connection, row: CheckRow, cause: Cause, text: str, about: tuple[str, ...]
    ) -> str | None:
        reason = Reason(
            service=row.service,
            cause=cause,
            watermark=row.bar.isoformat(),
            champion=row.model_id,
            text=text,
            verdict=row.id,
            columns=about,
        )
        return raise_trigger(connection, reason, at=row.at, limits=self.config.limits)


_CONDITIONS = {
    Cause.DRIFT: Condition.DATA_DRIFT,
    Cause.PERFORMANCE: Condition.PERFORMANCE_DEGRADED,
}
_TITLES = {
    Cause.DRIFT: "The bars have drifted from what {model_id} learned",
    Cause.PERFORMANCE: "{model_id} has lost its skill",
}


def _tell(
    connection: Connection,
    row: CheckRow,
    report: DriftReport,
    found: dict[Cause, str],
    *,
    kept: bool,
) -> None:
    """Raise what was found; a window that decides and finds nothing ends it.

    ``kept`` says that the skill was judged and is there: too few outcomes say nothing of it.
    """
    tell_of_data(connection, row, report)
    over = {Cause.DRIFT: row.official, Cause.PERFORMANCE: kept}
    for cause, condition in _CONDITIONS.items():
        if cause in found:
            at_once = report.recommendation is Recommendation.RETRAIN_IMMEDIATELY
            trouble = Trouble(
                condition,
                row.service,
                row.model_id,
                _TITLES[cause].format(model_id=row.model_id),
                found[cause],
                Severity.CRITICAL if at_once else Severity.WARNING,
                {"check": row.id, "score": report.score},
            )
            raise_alert(connection, trouble, at=row.at)
        elif over[cause]:
            recover_alert(
                connection,
                condition=condition,
                service=row.service,
                subject=row.model_id,
                at=row.at,
                text="the newest whole window shows nothing of it",
            )


def _lost(performance: LivePerformance | None) -> bool:
    return (
        performance is not None
        and performance.degradation is not None
        and performance.degradation.degraded
    )


def _kept(performance: LivePerformance | None) -> bool:
    found = None if performance is None else performance.degradation
    return found is not None and found.status is SkillStatus.KEPT


def _known(frame: pd.DataFrame, service: Service, now: datetime) -> pd.DataFrame:
    """Bars that had closed by then."""
    known: pd.DataFrame = frame[frame.index <= pd.Timestamp(now - service.timeframe.step)]
    return known


def _needed(drift: VersionDrift) -> int:
    """Bars of a whole window, with the history of features, target and forecast before it."""
    horizon = drift.bundle.service.horizon
    return drift.config.history_bars + int(drift.bundle.config["warm_up"]) + 2 * horizon
