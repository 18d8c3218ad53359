"""The steps of watching: outcomes, one look at every service, the doorbell.

[[The step of looking whether the system is in trouble, for when no replica is left to look.]]
"""

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

from mlops.data.calendar import calendar_for
from mlops.data.market_clock import Clock, market_clock
from mlops.data.recent_bars import Recent, RecentBars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.installation import Installation
from mlops.monitoring.monitor import Looked, Monitor
from mlops.monitoring.performance.outcomes import Matching
from mlops.monitoring.system_health import Finding
from mlops.reports.drift import keep_drift_report
from mlops.service import Service
from mlops.store import get_version, list_routes
from mlops.store.monitor_runs import get_check, list_watches
from tasks.artifacts import link_drift_report
from tasks.context import current_installation
from tasks.events import emit_trigger_event

MONITOR_KEY = "monitor"


@dataclass(slots=True)
class MonitorRun:
    """The monitor of this installation, and what each market shows when the run begins.

    ``times`` are the services by the market time at which they are looked at: the embedded
    sample is replayed, and has a clock of its own.
    """

    monitor: Monitor
    times: Mapping[datetime, Sequence[str]] = field(default_factory=dict)


def open_monitor_run(now: datetime | None = None) -> MonitorRun:
    """Read the settings and every market's bars; ``now`` is market time for all of them."""
    installation = current_installation()
    store = installation.store
    clock: Clock = market_clock if now is None else (lambda venue, last_close: now)
    bars = RecentBars(installation.settings.bars_path, clock)
    shown: dict[str, Dataset] = {}
    times: dict[datetime, list[str]] = defaultdict(list)
    watched: dict[str, list[str]] = defaultdict(list)
    for row in list_watches(store):
        watched[row.service].append(row.model_id)
    for route in list_routes(store):
        service = Service.parse(route.service)
        # A baseline does not know of the file that a version was trained on.
        looked_at = [route.champion, *watched[route.service]]
        tried = (bars.of(service, get_version(store, one).notes) for one in looked_at)
        recent = next((found for found in tried if found is not None), None)
        if recent is not None:
            shown[route.service] = dataset_of(service, recent)
            times[recent.now].append(route.service)
    monitor = installation.open_monitor(lambda service: shown.get(service.key))
    return MonitorRun(monitor, dict(times))


@task(cache_policy=NO_CACHE)
def match_outcomes(watch: MonitorRun) -> tuple[Matching, ...]:
    """Join forecasts with the outcomes that are known by now."""
    return tuple(
        one for now, services in watch.times.items() for one in watch.monitor.match(now, services)
    )


@task(cache_policy=NO_CACHE)
def check_services(watch: MonitorRun) -> tuple[Looked, ...]:
    """Look at every service that has bars, once, and at what else is watched there and due."""
    return tuple(
        one
        for now, services in watch.times.items()
        for look_at in (watch.monitor.look, watch.monitor.look_watched)
        for one in look_at(now, services)
    )


@task(cache_policy=NO_CACHE)
def publish_checks(looked: Sequence[Looked]) -> None:
    """Ring for what should be retrained, and show every look in the Prefect UI."""
    for one in looked:
        for _, cause in one.triggers:
            emit_trigger_event(one.service, cause)
    create_table_artifact(key=MONITOR_KEY, table=[_line(one) for one in looked])


@task(cache_policy=NO_CACHE)
def draw_drift_reports(watch: MonitorRun, alarmed: Sequence[Looked]) -> None:
    """Draw what each alarm rests on; a page that cannot be drawn costs no alarm."""
    installation = current_installation()
    for one in alarmed:
        try:
            _draw(installation, watch, one)
        except Exception:
            about = {"service": one.service, "model_id": one.model_id}
            told = "service=%s its drift report was not drawn"
            get_run_logger().exception(told, one.service, extra=about)


def _draw(installation: Installation, watch: MonitorRun, one: Looked) -> None:
    check = get_check(installation.store, one.check)
    dataset = watch.monitor.bars_of(Service.parse(one.service))
    assert check is not None
    assert dataset is not None
    assert one.report is not None
    version = get_version(installation.store, one.model_id)
    page = keep_drift_report(
        installation.registry,
        version,
        watch.monitor.open_bundle(version),
        one.report,
        dataset.frame.loc[: check.bar],
        directory=installation.settings.reports_path,
    )
    why = "; ".join(one.report.reasons)
    link_drift_report(installation.registry.tracking, version, page, why)


def _line(one: Looked) -> dict[str, str]:
    report = one.report
    return {
        "service": one.service,
        "version": one.model_id,
        "recommendation": "" if report is None else str(report.recommendation),
        "score": "" if report is None else f"{report.score:.3f}",
        "decides": "" if report is None else str(report.official),
        "why": one.why_not or "; ".join(() if report is None else report.reasons),
    }


def dataset_of(service: Service, recent: Recent) -> Dataset:
    """Recent bars as the service's labels and features are made of them."""
    return Dataset(
        recent.frame,
        timeframe=service.timeframe,
        target=TargetSpec(service.target, service.horizon),
        calendar=calendar_for(service.venue, service.symbol),
    )


@task(cache_policy=NO_CACHE)
def check_system_health() -> tuple[Finding, ...]:
    """Look in the place of the replicas, where none of them does it any more."""
    installation = current_installation()
    bars = RecentBars(installation.settings.bars_path)
    holder = f"monitor@{socket.gethostname()}:{os.getpid()}"
    return installation.open_guard(holder, bars.newest).look_in_passing()
