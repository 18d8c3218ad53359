"""`MLOpsManager`: one object for registering, deploying, monitoring and looking up models."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from mlops.ab_testing import answers
from mlops.ab_testing.answers import AbTestAnswer
from mlops.ab_testing.requests import AbTestRequest, OnShortPlan, parse_short_plan
from mlops.alerts.channels import Handler
from mlops.alerts.delivery import AlertSender
from mlops.data.time_columns import TimeArguments
from mlops.deployer import Deployer, is_champion
from mlops.installation import open_installation
from mlops.models.bundle import Trust
from mlops.monitoring.drift.report import DriftReport
from mlops.monitoring.drift.version_drift import columns_of
from mlops.monitoring.performance.live import LivePerformance
from mlops.monitoring.version_checks import VersionChecks
from mlops.plain_values import plain_notes
from mlops.registry import (
    Comparison,
    Explanation,
    Period,
    Registry,
    compare_versions,
    evaluate_version,
    explain,
    load,
    register_claimed,
)
from mlops.registry.version_history import Lineage, trace
from mlops.reports.drift import keep_drift_report
from mlops.rollout.plan import Strategy
from mlops.rollout.retirement import restore_service, retire_service
from mlops.settings import Settings
from mlops.store import (
    LivePeriod,
    ModelVersion,
    Rollout,
    Route,
    Store,
    Why,
    get_version,
    list_live_periods,
    list_rollouts,
    list_versions,
    live_at,
)
from mlops.store.alerts import AlertRow, list_alerts
from mlops.store.audit import SYSTEM
from mlops.store.monitor_runs import WatchRow, list_watches, start_watch, stop_watch
from mlops.symbols import spell_symbol
from mlops.validation.evaluation import Evaluation

log = logging.getLogger(__name__)

_SERVICE_KEYS = ("venue", "timeframe", "target", "horizon")
_HOLDER = "manager"


class MLOpsManager:
    """Register models, roll them out and back, monitor them, look them up.

    Store and MLflow are opened on first use.
    """

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.installation = open_installation(config)

    @cached_property
    def registry(self) -> Registry:
        """The open registry, for calls that this class does not have."""
        return self.installation.registry

    @property
    def store(self) -> Store:
        """The open store."""
        return self.installation.store

    @property
    def trust(self) -> Trust:
        """The signing key and the modules whose classes may be loaded."""
        return self.installation.trust

    @property
    def deployer(self) -> Deployer:
        """Takes versions live, for callers that follow a rollout step by step."""
        return self.installation.deployer

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

    async def register_model(
        self,
        model: object,
        model_type: str,
        symbol: str,
        metrics: object,
        metadata: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Register a model that was trained elsewhere.

        Args:
            metrics: Figures as claimed by the caller; no gate has judged them.
            metadata: Kept with the version. Its ``venue``, ``timeframe``, ``target`` and
                ``horizon`` name the service (by default those of the settings); its ``features``
                and ``sequence_length`` say what the model's ``predict`` is given. Numbers of
                numpy, times, paths and the like are kept as JSON values.

        Raises:
            RegistryError: when format, size, a figure, a value of the metadata or the disk does
                not allow it; nothing is written then.
            ServiceError: when symbol and metadata name no service.
            BundleError: when a clean process cannot load it or gets other forecasts.
        """
        notes = plain_notes({} if metadata is None else metadata)
        parts = {key: notes[key] for key in _SERVICE_KEYS if key in notes}
        service = self.config.service(symbol, **parts)
        return await asyncio.to_thread(
            register_claimed,
            self.registry,
            model,
            model_type=model_type,
            service=service,
            metrics=metrics,
            notes=notes,
            bars_root=self.config.bars_path,
        )

    async def deploy_model(
        self,
        model_id: str,
        deployment_strategy: Strategy | str | None = None,
        *,
        wait: bool = True,
        force: bool = False,
        end_test: bool = False,
        actor: str = SYSTEM,
        reason: str = "",
        **plan: Any,
    ) -> bool:
        """Roll a version out; True when it became the champion and stayed healthy.

        This process runs the rollout to its end. Where no replica is live, it runs one without
        HTTP meanwhile, whose trials are recent bars. A rollout that was undone returns False and
        logs why.

        Args:
            deployment_strategy: By default DEFAULT_DEPLOYMENT_STRATEGY.
            wait: False requests the rollout and returns False at once; a replica or the
                reconcile flow runs it.
            force: Override the gates; needs a person as ``actor`` and a ``reason``.
            end_test: Stop the A/B test of the service if one runs; else that refuses the request.
            plan: Fields of `mlops.rollout.plan.RolloutPlan` that differ from the strategy's,
                such as ``dwell_s`` and ``bake_s``.

        Raises:
            RolloutRefused: when the version may not go live, with what to do.
            VersionNotFound: when there is no such version.
        """
        rollout = await asyncio.to_thread(
            self.deployer.request,
            model_id,
            deployment_strategy,
            _why(actor, reason),
            force=force,
            changes=plan,
            end_test=end_test,
        )
        if not wait:
            return False
        ended = await self.follow_rollout(rollout.id)
        live = is_champion(self.store, ended)
        if not live:
            log.warning(
                "%s is not live, %s %s: %s", model_id, ended.id, ended.phase, ended.reason,
                extra={"service": ended.service, "model_id": model_id},
            )  # fmt: skip
        return live

    async def follow_rollout(self, rollout_id: str) -> Rollout:
        """Run a rollout to its end; after a cancelled wait another process runs it.

        Raises:
            RolloutError: when there is no such rollout.
        """
        stop = threading.Event()
        follow = self.deployer.follow
        try:
            return await asyncio.to_thread(follow, rollout_id, holder=_HOLDER, stop=stop)
        finally:
            stop.set()

    async def abort_rollout(self, rollout_id: str, *, actor: str, reason: str) -> Rollout:
        """Request that a rollout be undone, and wait until it is.

        Raises:
            RolloutError: when there is no such rollout, or it has ended.
        """
        abort = self.deployer.abort
        return await asyncio.to_thread(abort, rollout_id, _why(actor, reason), holder=_HOLDER)

    async def rollback_model(self, service_or_model_id: str, *, actor: str, reason: str) -> Route:
        """Make the previous champion live again at once, after a check that it loads and forecasts.

        Raises:
            RolloutError: when there is nothing to go back to, or a rollout is under way.
            BundleError: when the previous champion does not load.
        """
        roll_back = self.deployer.roll_back
        return await asyncio.to_thread(roll_back, service_or_model_id, _why(actor, reason))

    async def retire_service(self, service: str, *, actor: str, reason: str) -> Route:
        """End a service: replicas stop serving it, and nothing monitors or retrains it any more.

        Raises:
            RolloutError: when there is no such service, it is retired, or a rollout is open.
        """
        why = _why(actor, reason)
        return await asyncio.to_thread(retire_service, self.store, service, why)

    async def restore_service(self, service: str, *, actor: str, reason: str) -> Route:
        """Bring a retired service back, with the champion that it had.

        Raises:
            RolloutError: when there is no such service, or it is not retired.
        """
        why = _why(actor, reason)
        return await asyncio.to_thread(restore_service, self.store, service, why)

    async def monitor_model_drift(
        self, model_id: str, recent_data: object, **written: Unpack[TimeArguments]
    ) -> DriftReport:
        """Compare recent bars with the bars a version was trained on.

        Args:
            recent_data: Bars by open time, with the history that the features need before the
                window of ``DECISION_WINDOW_HOURS``; or all features of the version, and where known
                ``target``, ``forecast`` and ``realised``. A data frame, a table of Arrow or Polars,
                a list of records or a dict of columns.
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
            now: Market time, by default this moment.

        Raises:
            VersionNotFound: when there is no such version.
        """
        moment, hours = now or datetime.now(UTC), self.config.monitoring_window_hours
        measure = self.version_checks.measure_performance
        return await asyncio.to_thread(measure, model_id, now=moment, window_hours=hours)

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
        why = _why(actor, reason)
        return await asyncio.to_thread(start_watch, self.store, model_id, interval_hours, why)

    async def stop_continuous_monitoring(
        self, model_id: str, *, actor: str = "", reason: str = ""
    ) -> bool:
        """Stop looking at a version; False where it was not watched. A champion still is.

        Raises:
            VersionNotFound: when there is no such version.
        """
        return await asyncio.to_thread(stop_watch, self.store, model_id, _why(actor, reason))

    def continuous_monitoring(self) -> tuple[WatchRow, ...]:
        """The versions of `start_continuous_monitoring`, oldest first."""
        return list_watches(self.store)

    async def start_ab_test(
        self,
        model_a_id: str,
        model_b_id: str,
        test_name: str = "",
        traffic_split: float = 0.5,
        duration_hours: float = 48.0,
        *,
        promote: bool = True,
        on_short_plan: OnShortPlan | str = OnShortPlan.ACCEPT,
        end_test: bool = False,
        request_key: str | None = None,
        actor: str = "",
        reason: str = "",
    ) -> AbTestAnswer:
        """Compare the champion with another version on the same coming bars, bar by bar.

        Args:
            traffic_split: The share of the requests that model B answers; it does not enter the
                comparison. The one of the two that is not live gets 0 to 0.95.
            duration_hours: In market time. ``plan`` of the answer says how long a verdict takes.
            promote: Whether a challenger that is better goes live.
            on_short_plan: ``accept``, ``refuse`` or ``extend`` a test that cannot decide.
            end_test: Whether a running test of the service is stopped for this one.
            request_key: A repeated request with the same key returns the first one's test.

        Raises:
            AbTestRefused, RolloutRefused: when the test may not begin, with what to do.
            VersionNotFound: when there is no such version.
        """
        request = AbTestRequest(
            model_a_id=model_a_id,
            model_b_id=model_b_id,
            name=test_name,
            traffic_split=traffic_split,
            duration_hours=duration_hours,
            promote=promote,
            on_short_plan=parse_short_plan(on_short_plan),
            end_test=end_test,
            request_key=request_key,
        )
        testing, why = self.installation.open_ab_testing(), _why(actor, reason)
        return await asyncio.to_thread(answers.start_test, testing, request, why)

    async def evaluate_ab_test(self, test_id: str) -> AbTestAnswer:
        """Look at an A/B test now; the same bar again gives the same figures.

        Raises:
            RolloutError: when there is no such test.
        """
        testing = self.installation.open_ab_testing()
        return await asyncio.to_thread(answers.evaluate_test, testing, test_id)

    async def stop_ab_test(
        self, test_id: str, *, actor: str = "", reason: str = ""
    ) -> AbTestAnswer:
        """End an A/B test as stopped; the champion stays, and the challenger stays a challenger.

        Raises:
            RolloutError: when there is no such test, or it has ended.
        """
        testing, why = self.installation.open_ab_testing(), _why(actor, reason)
        return await asyncio.to_thread(answers.stop_test, testing, test_id, why)

    async def extend_ab_test(
        self, test_id: str, hours: float, *, actor: str = "", reason: str = ""
    ) -> AbTestAnswer:
        """Let an A/B test last longer by so many hours of trading, which cannot be undone.

        Raises:
            RolloutError: when there is no such test, it has ended, or the hours hold no bar.
        """
        testing, why = self.installation.open_ab_testing(), _why(actor, reason)
        return await asyncio.to_thread(answers.extend_test, testing, test_id, hours, why)

    def ab_tests(self, service: str | None = None) -> tuple[AbTestAnswer, ...]:
        """The A/B tests of one service or of all, newest first, each with its newest look."""
        return answers.list_answers(self.installation.open_ab_testing(), service)

    def rollouts(self, service: str | None = None) -> tuple[Rollout, ...]:
        """Every rollout, of one service or of all, newest first."""
        return list_rollouts(self.store, service=service)

    def who_was_live(self, service: str, at: datetime) -> LivePeriod | None:
        """The version live at a moment, with actor and reason; None before the service began."""
        return live_at(self.store, service, at)

    def live_history(self, service: str) -> tuple[LivePeriod, ...]:
        """Every change of what was live, oldest first."""
        return list_live_periods(self.store, service)

    def trace(self, model_id: str) -> Lineage:
        """The history of a version, from the monitor's look that asked for it to its routes.

        Raises:
            VersionNotFound: when there is no such version.
            StoreError: when a row names another that does not exist.
        """
        return trace(self.store, model_id)

    def list_models(
        self,
        *,
        model_type: str | None = None,
        symbol: str | None = None,
        status: str | None = None,
    ) -> tuple[ModelVersion, ...]:
        """The versions that match every argument given, newest first.

        Raises:
            ServiceError: when the symbol is none.
        """
        spelt = None if symbol is None else spell_symbol(symbol)
        return list_versions(self.store, model_type=model_type, symbol=spelt, status=status)

    def get_model(self, model_id: str) -> ModelVersion:
        """One version.

        Raises:
            VersionNotFound: when there is no such version.
        """
        return get_version(self.store, model_id)

    def explain(self, model_id: str) -> Explanation:
        """Why a version passed or was refused, on what data, by which code."""
        return explain(self.registry, model_id)

    def evaluate(
        self,
        model_id: str,
        bars: pd.DataFrame,
        *,
        period: Period | None = None,
        **written: Unpack[TimeArguments],
    ) -> Evaluation:
        """Evaluate a version on a period of its service's bars, by default on all of them.

        ``written`` says how the time of the bars is written, as in `monitor_model_drift`.
        """
        symbol = self.get_model(model_id).symbol
        fee = self.config.fee_for(symbol)
        return evaluate_version(
            self.registry, model_id, bars, fee_bps=fee, period=period or Period(), **written
        )

    def compare(
        self,
        a: str,
        b: str,
        bars: pd.DataFrame,
        *,
        period: Period | None = None,
        **written: Unpack[TimeArguments],
    ) -> Comparison:
        """Evaluate two versions of one service on the same bars.

        ``written`` says how the time of the bars is written, as in `monitor_model_drift`.
        """
        fee = self.config.fee_for(self.get_model(a).symbol)
        return compare_versions(
            self.registry, a, b, bars, fee_bps=fee, period=period or Period(), **written
        )

    def _draw_drift(self, model_id: str, recent: object, **written: Unpack[TimeArguments]) -> Path:
        drift = self.version_checks.drift_of(model_id)
        columns = columns_of(drift.bundle, recent, **written)
        return keep_drift_report(
            self.registry,
            self.get_model(model_id),
            drift.bundle,
            drift.check(columns),
            columns,
            directory=self.config.reports_path,
        )


def _why(actor: str, reason: str) -> Why:
    return Why(datetime.now(UTC), actor=actor or SYSTEM, reason=reason)
