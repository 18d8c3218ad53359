"""The steps of watching: outcomes, one look at every service, the doorbell.

[[The step of looking whether the system is in trouble, for when no replica is left to look.]]
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from mlops.data.calendar import calendar_for
from mlops.data.market_clock import Clock, market_clock
from mlops.data.recent_bars import KnownBars, RecentBars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.manager import MLOpsManager
from mlops.monitoring.guard import Guard
from mlops.monitoring.monitor import Look, Monitor
from mlops.monitoring.performance.outcomes import Matching
from mlops.monitoring.system_health import Finding, read_limits
from mlops.registry import bundle_cache, load_version
from mlops.reports.drift import keep_drift_report
from mlops.service import Service
from mlops.settings import current_settings
from mlops.store import get_check, get_version, list_routes, list_watches
from tasks.artifacts import announce_drift
from tasks.events import emit_trigger_event

MONITOR_KEY = "monitor"


@dataclass(slots=True)
class Watch:
    """The monitor of this installation, and what each market shows when the run begins.

    ``times`` are the services by the market time at which they are looked at: the embedded
    sample is replayed, and has a clock of its own.
    """

    monitor: Monitor
    times: Mapping[datetime, Sequence[str]] = field(default_factory=dict)


def open_watch(now: datetime | None = None) -> Watch:
    """Read the settings and every market's bars; ``now`` is market time for all of them."""
    manager = MLOpsManager(current_settings())
    clock: Clock = market_clock if now is None else (lambda venue, last_close: now)
    bars = RecentBars(manager.config.bars_path, clock)
    shown: dict[str, Dataset] = {}
    times: dict[datetime, list[str]] = defaultdict(list)
    watched: dict[str, list[str]] = defaultdict(list)
    for row in list_watches(manager.store):
        watched[row.service].append(row.model_id)
    for route in list_routes(manager.store):
        service = Service.parse(route.service)
        # A baseline does not know of the file that a version was trained on.
        looked_at = [route.champion, *watched[route.service]]
        tried = (bars.load(service, get_version(manager.store, one).notes) for one in looked_at)
        recent = next((found for found in tried if found is not None), None)
        if recent is not None:
            shown[route.service] = dataset_of(service, recent)
            times[recent.now].append(route.service)
    return Watch(open_monitor(manager, lambda service: shown.get(service.key)), dict(times))


def open_monitor(manager: MLOpsManager, bars_of: Callable[[Service], Dataset | None]) -> Monitor:
    """The monitor that the settings name; ``bars_of`` gives a service's bars."""
    return Monitor(
        manager.store,
        open_bundle=lambda version: load_version(
            version, manager.trust, bundle_cache(manager.config.mlops_base_path.resolve())
        ),
        bars_of=bars_of,
        config=manager.monitor_config,
    )


@task(cache_policy=NO_CACHE)
def match(watch: Watch) -> tuple[Matching, ...]:
    """Join forecasts with the outcomes that are known by now."""
    return tuple(
        one
        for now, services in watch.times.items()
        for one in watch.monitor.match_outcomes(now, services)
    )


@task(cache_policy=NO_CACHE)
def look(watch: Watch) -> tuple[Look, ...]:
    """Look at every service that has bars, once, and at what else is watched there and due."""
    return tuple(
        one
        for now, services in watch.times.items()
        for look_at in (watch.monitor.look, watch.monitor.look_watched)
        for one in look_at(now, services)
    )


@task(cache_policy=NO_CACHE)
def announce(looks: Sequence[Look]) -> None:
    """Ring for what should be retrained, and show every look in the Prefect UI."""
    for one in looks:
        for _, cause in one.triggers:
            emit_trigger_event(one.service, cause)
    create_table_artifact(key=MONITOR_KEY, table=[_line(one) for one in looks])


@task(cache_policy=NO_CACHE)
def draw(watch: Watch, alarmed: Sequence[Look]) -> None:
    """Draw what each alarm rests on; a page that cannot be drawn costs no alarm."""
    manager = MLOpsManager(current_settings())
    for one in alarmed:
        try:
            _draw(manager, watch, one)
        except Exception:
            about = {"service": one.service, "model_id": one.model_id}
            told = "service=%s its drift report was not drawn"
            get_run_logger().exception(told, one.service, extra=about)


def _draw(manager: MLOpsManager, watch: Watch, one: Look) -> None:
    check = get_check(manager.store, one.check)
    dataset = watch.monitor.bars_of(Service.parse(one.service))
    assert check is not None
    assert dataset is not None
    assert one.report is not None
    version = get_version(manager.store, one.model_id)
    page = keep_drift_report(
        manager.registry,
        version,
        watch.monitor.open_bundle(version),
        one.report,
        dataset.frame.loc[: check.bar],
        directory=manager.config.reports_path,
    )
    why = "; ".join(one.report.reasons)
    announce_drift(manager.registry.tracking, version, page, why)


def _line(one: Look) -> dict[str, str]:
    report = one.report
    return {
        "service": one.service,
        "version": one.model_id,
        "recommendation": "" if report is None else str(report.recommendation),
        "score": "" if report is None else f"{report.score:.3f}",
        "decides": "" if report is None else str(report.official),
        "why": one.why_not or "; ".join(() if report is None else report.reasons),
    }


def dataset_of(service: Service, recent: KnownBars) -> Dataset:
    """Recent bars as the service's labels and features are made of them."""
    return Dataset(
        recent.frame,
        timeframe=service.timeframe,
        target=TargetSpec(service.target, service.horizon),
        calendar=calendar_for(service.venue, service.symbol),
    )


def open_guard() -> Guard:
    """The guard of this installation, looking from this process."""
    settings = current_settings()
    return Guard(
        MLOpsManager(settings).store,
        f"monitor@{socket.gethostname()}:{os.getpid()}",
        newest_bar=RecentBars(settings.bars_path).find_newest,
        limits=read_limits(settings),
        keep_days=settings.forecast_log_days,
    )


@task(cache_policy=NO_CACHE)
def look_for_trouble() -> tuple[Finding, ...]:
    """Look in the place of the replicas, where none of them does it any more."""
    return open_guard().check_health_once()
