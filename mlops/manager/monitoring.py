"""Versions measured on recent bars and outcomes, and the alerts about them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Unpack

from mlops.alerts.channels import Handler
from mlops.alerts.delivery import AlertSender
from mlops.data.time_columns import TimeArguments
from mlops.manager.opened import Opened, why_of
from mlops.monitoring.dashboard import Dashboard, read_dashboard
from mlops.monitoring.drift.report import DriftReport
from mlops.monitoring.drift.version_drift import columns_of
from mlops.monitoring.overview import Overview, read_overview
from mlops.monitoring.performance.live import LivePerformance
from mlops.monitoring.version_checks import VersionChecks
from mlops.registry import load
from mlops.reports.drift import keep_drift_report
from mlops.store import get_version
from mlops.store.alerts import AlertRow, list_alerts
from mlops.store.monitor_runs import WatchRow, list_watches, start_watch, stop_watch
from mlops.store.monitoring_pages import (
    CheckSummary,
    list_alert_page,
    list_check_page,
    list_trigger_page,
)
from mlops.store.movement import Movement, read_movement
from mlops.store.pages import Page, Position
from mlops.store.triggers import TriggerRow, TriggerState
from mlops.training.retraining import market_time


class Monitoring(Opened):
    """Measures versions, watches them, and hands alerts on."""

    @cached_property
    def version_checks(self) -> VersionChecks:
        """Measures any version on recent bars, and remembers what it read of its bundle."""
        config = self.installation.monitor_config
        return VersionChecks(self.store, lambda model_id: load(self.registry, model_id), config)

    @cached_property
    def alert_sender(self) -> AlertSender:
        """Sends alerts to the handlers of this process."""
        sender = self.installation.open_alert_sender()
        sender.start()
        return sender

    def add_alert_handler(self, handler: object) -> None:
        """Call ``handler.send_alert(alert_data)``, async or not, for each alert.

        Each alert is sent once for each class of handlers, even where several processes have a
        handler of the class.

        Raises:
            SettingsError: when the handler has no such method.
        """
        self.alert_sender.add_channel(Handler(handler))

    def alerts(
        self, service: str | None = None, *, lasting_only: bool = False
    ) -> tuple[AlertRow, ...]:
        """Alerts, newest first; ``lasting_only`` leaves out those that have ended."""
        return list_alerts(self.store, service=service, lasting_only=lasting_only)

    def alert_page(
        self,
        *,
        service: str | None = None,
        lasting_only: bool = False,
        after: Position | None = None,
        limit: int = 50,
    ) -> Page[AlertRow]:
        """As `alerts`, a page at a time; ``after`` is the ``next`` of the page before."""
        return list_alert_page(
            self.store, service=service, lasting_only=lasting_only, after=after, limit=limit
        )

    def check_page(
        self,
        *,
        service: str | None = None,
        model_id: str | None = None,
        official_only: bool = False,
        after: Position | None = None,
        limit: int = 50,
    ) -> Page[CheckSummary]:
        """The monitor's looks at versions, newest first, a page at a time.

        Args:
            official_only: Leave out the looks between decision windows.
            after: The ``next`` of the page before; None for the first page.
            limit: Most looks of the page.
        """
        return list_check_page(
            self.store,
            service=service,
            model_id=model_id,
            official_only=official_only,
            after=after,
            limit=limit,
        )

    def trigger_page(
        self,
        *,
        service: str | None = None,
        state: TriggerState | None = None,
        after: Position | None = None,
        limit: int = 50,
    ) -> Page[TriggerRow]:
        """The queue of reasons to retrain services, newest first, a page at a time.

        Args:
            state: Only triggers in this state.
            after: The ``next`` of the page before; None for the first page.
            limit: Most triggers of the page.
        """
        return list_trigger_page(self.store, service=service, state=state, after=after, limit=limit)

    def dashboard(self) -> Dashboard:
        """The figures of the platform's dashboard at this moment.

        Errors are relative: ``average_mse`` is the mean over the deployed versions of MSE /
        variance of the outcomes, each on its service's newest known outcomes.
        """
        return read_dashboard(self.store, window_hours=self.config.monitoring_window_hours)

    def overview(self, *, after: str | None = None) -> Overview:
        """What the installation is doing: services, rollouts, tests, alerts, queue, versions.

        Args:
            after: Key of the last service of the page before; None for the first 50 services.
        """
        age = self.config.forecast_max_age_bars
        return read_overview(self.store, max_age_bars=age, after=after)

    def read_movement(self) -> Movement:
        """A value that changes when what `overview` and `dashboard` show is written anew."""
        return read_movement(self.store)

    async def monitor_model_drift(
        self, model_id: str, recent_data: object, **written: Unpack[TimeArguments]
    ) -> DriftReport:
        """Compare recent bars with the bars a version was trained on.

        Args:
            recent_data: Bars by open time, with the history that the features need before the
                window of ``DECISION_WINDOW_HOURS``; or features of the version, and where known
                ``target``, ``forecast`` and ``realised``: the report says which are absent. A data
                frame, a table of Arrow or Polars, a list of records or a dict of columns.
            written: How the time of the bars is written: ``timezone``, ``stamps``, ``dayfirst``,
                ``time_format`` and ``time_column`` as in `mlops.validate_bars`.

        Raises:
            VersionNotFound: when there is no such version.
            BarsError: when bars break the contract, or a column is missing.
        """
        return await asyncio.to_thread(
            lambda: self.version_checks.drift_of(model_id).check(recent_data, **written)
        )

    async def draw_drift_report(
        self, model_id: str, recent_data: object, **written: Unpack[TimeArguments]
    ) -> Path:
        """Write the result of `monitor_model_drift` as an HTML page; it takes seconds.

        The page is kept under the reports, and with the version's MLflow run.

        Raises:
            VersionNotFound: when there is no such version.
            BarsError: when bars break the contract.
        """
        return await asyncio.to_thread(lambda: self._draw_drift(model_id, recent_data, **written))

    async def monitor_model_performance(
        self, model_id: str, *, now: datetime | None = None
    ) -> LivePerformance:
        """A version's figures on its latest recorded outcomes, and whether its skill is lost.

        Args:
            now: Market time, by default this moment; where the service's bars are replayed or end
                with a file, that of the newest look.

        Raises:
            VersionNotFound: when there is no such version.
        """
        return await asyncio.to_thread(self._measure_performance, model_id, now)

    async def start_continuous_monitoring(
        self, model_id: str, interval_hours: float = 1.0, *, actor: str = "", reason: str = ""
    ) -> WatchRow:
        """Let the hourly monitor look at a version until `stop_continuous_monitoring`.

        It looks when bars of ``interval_hours`` have come since its last look, and raises alerts.
        A champion is looked at every hour without this call, and only a champion's drift asks for
        a retraining. A second call changes the interval.

        Raises:
            SettingsError: for less than an hour.
            VersionNotFound: when there is no such version.
            StoreError: for a baseline.
        """
        why = why_of(actor, reason)
        return await asyncio.to_thread(start_watch, self.store, model_id, interval_hours, why)

    async def stop_continuous_monitoring(
        self, model_id: str, *, actor: str = "", reason: str = ""
    ) -> bool:
        """Stop looking at a version; False where it was not watched. A champion still is.

        Raises:
            VersionNotFound: when there is no such version.
        """
        return await asyncio.to_thread(stop_watch, self.store, model_id, why_of(actor, reason))

    def continuous_monitoring(self) -> tuple[WatchRow, ...]:
        """The versions of `start_continuous_monitoring`, oldest first."""
        return list_watches(self.store)

    def _measure_performance(self, model_id: str, now: datetime | None) -> LivePerformance:
        hours = self.config.monitoring_window_hours
        if now is None:
            service = get_version(self.store, model_id).service
            now = market_time(self.store, service, datetime.now(UTC))
        return self.version_checks.measure_performance(model_id, now=now, window_hours=hours)

    def _draw_drift(self, model_id: str, recent: object, **written: Unpack[TimeArguments]) -> Path:
        drift = self.version_checks.drift_of(model_id)
        columns = columns_of(drift.bundle, recent, **written)
        return keep_drift_report(
            self.registry,
            get_version(self.store, model_id),
            drift.bundle,
            drift.check(columns),
            columns,
            directory=self.config.reports_path,
        )
