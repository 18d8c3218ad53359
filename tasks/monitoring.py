"""The steps of the monitor flow: outcomes, a look at every service, events, and system health."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from mlops.data.market_clock import Clock, market_clock
from mlops.data.recent_bars import HELD_BARS, KnownBars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.installation import Installation
from mlops.monitoring.monitor import Look, Monitor
from mlops.monitoring.performance.outcomes import Matching
from mlops.monitoring.system_health import Finding
from mlops.registry.markets import refresh_files
from mlops.reports.drift import keep_drift_report
from mlops.service import Service
from mlops.store import get_version, list_routes
from mlops.store.monitor_runs import get_check
from tasks.artifacts import link_drift_report
from tasks.context import current_installation
from tasks.events import emit_trigger_event

MONITOR_KEY = "monitor"


@dataclass(slots=True)
class MonitorRun:
    """One run of the monitor flow.

    Args:
        monitor: Knows the bars of every service as they were when the run began.
        times: Keys of the services by the market time at which they are looked at; a file or the
            embedded sample may have a clock of its own.
    """

    monitor: Monitor
    times: Mapping[datetime, Sequence[str]] = field(default_factory=dict)


def open_monitor_run(now: datetime | None = None) -> MonitorRun:
    """Read the settings and the bars of every service; ``now`` is market time for all of them."""
    installation = current_installation()
    clock: Clock = market_clock if now is None else (lambda *_: now)
    held_bars = HELD_BARS if now is None else None
    refresh_files(installation.store, cache_root=installation.settings.bars_path)
    bars = installation.open_recent_bars(clock, held_bars=held_bars)
    datasets: dict[str, Dataset] = {}
    times: dict[datetime, list[str]] = defaultdict(list)
    for route in list_routes(installation.store):
        service = Service.parse(route.service)
        recent = bars.load(service)
        if recent is not None:
            datasets[service.key] = dataset_of(service, recent)
            times[recent.now].append(service.key)
    monitor = installation.open_monitor(lambda service: datasets.get(service.key))
    return MonitorRun(monitor, dict(times))


@task(cache_policy=NO_CACHE)
def match_outcomes(run: MonitorRun) -> tuple[Matching, ...]:
    """Join forecasts with the outcomes that are known by now."""
    return tuple(
        matching
        for now, services in run.times.items()
        for matching in run.monitor.match_outcomes(now, services)
    )


@task(cache_policy=NO_CACHE)
def check_services(run: MonitorRun) -> tuple[Look, ...]:
    """Look at every champion that has bars, and at the watched versions that are due."""
    return tuple(
        look
        for now, services in run.times.items()
        for look_at in (run.monitor.look, run.monitor.look_watched)
        for look in look_at(now, services)
    )


@task(cache_policy=NO_CACHE)
def publish_checks(looks: Sequence[Look]) -> None:
    """Emit the events of new triggers, and show every look in the Prefect UI."""
    for look in looks:
        for _, cause in look.triggers:
            emit_trigger_event(look.service, cause)
    create_table_artifact(key=MONITOR_KEY, table=[_table_row(look) for look in looks])


@task(cache_policy=NO_CACHE)
def draw_drift_reports(run: MonitorRun, alarms: Sequence[Look]) -> None:
    """Draw the drift report of each alarm; where drawing fails, the alarm stays."""
    installation = current_installation()
    for look in alarms:
        try:
            _draw_drift_report(installation, run, look)
        except Exception:
            get_run_logger().exception(
                "service=%s its drift report was not drawn",
                look.service,
                extra={"service": look.service, "model_id": look.model_id},
            )


def _draw_drift_report(installation: Installation, run: MonitorRun, look: Look) -> None:
    check = get_check(installation.store, look.check)
    dataset = run.monitor.bars_of(Service.parse(look.service))
    assert check is not None
    assert dataset is not None
    assert look.report is not None
    version = get_version(installation.store, look.model_id)
    page = keep_drift_report(
        installation.registry,
        version,
        run.monitor.open_bundle(version),
        look.report,
        dataset.frame.loc[: check.bar],
        directory=installation.settings.reports_path,
    )
    why = "; ".join(look.report.reasons)
    link_drift_report(installation.registry.tracking, version, page, why)


def _table_row(look: Look) -> dict[str, str]:
    report = look.report
    return {
        "service": look.service,
        "version": look.model_id,
        "recommendation": "" if report is None else str(report.recommendation),
        "score": "" if report is None else f"{report.score:.3f}",
        "decides": "" if report is None else str(report.official),
        "why": look.why_not or "; ".join(() if report is None else report.reasons),
    }


def dataset_of(service: Service, recent: KnownBars) -> Dataset:
    """Known bars with the service's target and calendar."""
    return Dataset(
        recent.frame,
        timeframe=service.timeframe,
        target=TargetSpec(service.target, service.horizon),
        calendar=recent.market.calendar,
    )


@task(cache_policy=NO_CACHE)
def check_system_health() -> tuple[Finding, ...]:
    """Run the guard once, where no live replica runs it."""
    installation = current_installation()
    bars = installation.open_recent_bars()
    holder = f"monitor@{socket.gethostname()}:{os.getpid()}"
    return installation.open_guard(holder, bars.find_newest).check_health_once()
