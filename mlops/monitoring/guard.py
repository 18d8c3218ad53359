"""The health check of every minute: raises alerts about the system behind the services, ends them.

One process at a time holds the guard's lease and makes the checks. The lease is not the rollout
controller's, because a check may read slowly and a rollout must not wait for it. All that a check
needs to know of earlier checks is in the alerts, so that another process can take the lease over.
The exception is the time since which a trouble was seen: a trouble that a restart may cause for a
moment raises an alert only after the same process has seen it for `CONFIRM_S`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from mlops.alerts.conditions import (
    close_alerts_of_replaced,
    end_system_trouble,
    raise_system_trouble,
)
from mlops.background import Repeated
from mlops.data.quality import NewestBar
from mlops.monitoring.system_health import (
    Finding,
    HealthState,
    ServiceSnapshot,
    SystemLimits,
    judge_system,
)
from mlops.service import Service
from mlops.store import Route, Store
from mlops.store.alerts import AlertRow, Condition, list_alerts
from mlops.store.engine import Connection
from mlops.store.leases import Lease, acquire_lease, fence, release_lease, was_ever_held
from mlops.store.replicas import live_replicas
from mlops.store.request_counts import TrafficRow, forget_traffic, read_traffic, sum_traffic
from mlops.store.routes import read_routes
from mlops.store.sql import store_time

log = logging.getLogger(__name__)

LEASE = "guard"
CHECK_EVERY_S = 60.0
LEASE_S = 2.5 * CHECK_EVERY_S
CONFIRM_S = 45.0
"""Seconds for which a trouble must be seen before it raises an alert, unless it is `at_once`."""

HOUR = timedelta(hours=1)


class Guard:
    """Makes health checks while it holds the guard's lease.

    Args:
        holder: The name of this process in the lease.
        newest_bar: Gives the newest bar of a service, None where no later bar is due.
        keep_days: Request counts older than this are deleted.
        now: Replaces the database's clock.
        clock: Gives the seconds by which the guard measures how long a trouble has been seen.
    """

    def __init__(
        self,
        store: Store,
        holder: str,
        *,
        newest_bar: Callable[[Service], NewestBar | None],
        limits: SystemLimits | None = None,
        keep_days: float = 30.0,
        now: Callable[[], datetime] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.holder = holder
        self.newest_bar = newest_bar
        self.limits = limits or SystemLimits()
        self.keep_days = keep_days
        self.now = now
        self.clock = clock
        self.lease: Lease | None = None
        self._first_seen: dict[tuple[str, str], float] = {}
        self._loop: Repeated | None = None

    def check_health(self) -> tuple[Finding, ...]:
        """Check every service once and update the alerts.

        Returns:
            What was found of each subject; nothing where another process holds the lease.

        Raises:
            StoreError: when the store is away, or the lease was lost during the check.
        """
        self.lease = acquire_lease(self.store, LEASE, self.holder, seconds=LEASE_S)
        if self.lease is None:
            # A trouble seen before the lease was lost may have ended since, so it confirms nothing.
            self._first_seen.clear()
            return ()
        with self.store.read() as connection:
            now = store_time(connection) if self.now is None else self.now()
            snapshots = self._read_snapshots(connection, now)
        # Bars are read from a disk, which may be slow, so no transaction is open meanwhile.
        findings = tuple(
            finding
            for snapshot in snapshots
            for finding in judge_system(
                replace(snapshot, newest_bar=self._read_newest_bar(snapshot.route)), self.limits
            )
        )
        lasting = list_alerts(self.store, lasting_only=True)
        with self.store.write() as connection:
            fence(connection, self.lease)
            forget_traffic(connection, before=now - timedelta(days=self.keep_days))
            self._update_alerts(connection, findings, lasting, now)
        close_alerts_of_replaced(self.store, now)
        return findings

    def check_health_once(self, pause: Callable[[float], None] = time.sleep) -> tuple[Finding, ...]:
        """Check from a process that does not stay, where no replica makes the checks any more.

        Without it nobody would report that no replica is live. Where no process ever held the
        lease, no replica was ever started and none is missing.

        Args:
            pause: Waits for the seconds until a second check can confirm what the first one found.

        Raises:
            StoreError: when the store is away.
        """
        if not was_ever_held(self.store, LEASE):
            return ()
        findings = self.check_health()
        if self._first_seen:
            pause(CONFIRM_S)
            findings = self.check_health()
        self.step_down()
        return findings

    def start(self) -> None:
        """Make the checks in a thread of their own from now on."""
        self._loop = Repeated(
            "guard", CHECK_EVERY_S, self.check_health, at_once=False, at_end=self.step_down
        )
        self._loop.start()

    def stop(self) -> None:
        """End the thread, which gives the lease back."""
        if self._loop is not None:
            self._loop.stop()

    def step_down(self) -> None:
        """Give the lease back, so that the next process can check at once."""
        if self.lease is not None:
            release_lease(self.store, self.lease)
            self.lease = None

    def _read_snapshots(self, connection: Connection, now: datetime) -> list[ServiceSnapshot]:
        """Routes, replicas and the requests of this hour and the one before."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        replicas = live_replicas(connection)
        traffic: dict[tuple[str, str], list[TrafficRow]] = {}
        for row in read_traffic(connection, since=hour - HOUR):
            traffic.setdefault((row.service, row.model_id), []).append(row)
        snapshots = []
        for route in read_routes(connection):
            rows = traffic.get((route.service, route.champion), [])
            this_hour = sum_traffic([row for row in rows if row.hour >= hour])
            snapshots.append(
                ServiceSnapshot(
                    route=route, this_hour=this_hour, two_hours=sum_traffic(rows), replicas=replicas
                )
            )
        return snapshots

    def _read_newest_bar(self, route: Route) -> NewestBar | None:
        service, model_id = route.service, route.champion
        try:
            return self.newest_bar(Service.parse(service))
        except Exception:
            # Bars of one market that cannot be read must not stop the other checks.
            log.exception(
                "service=%s its newest bar could not be read",
                service,
                extra={"service": service, "model_id": model_id},
            )
            return None

    def _update_alerts(
        self,
        connection: Connection,
        findings: Sequence[Finding],
        lasting: Sequence[AlertRow],
        now: datetime,
    ) -> None:
        alerts = {
            (row.service, row.subject): row
            for row in lasting
            if row.condition is Condition.SYSTEM_TROUBLE
        }
        for finding in findings:
            key = (finding.service, str(finding.subject))
            if finding.state is not HealthState.TROUBLE:
                self._first_seen.pop(key, None)
                if finding.state is HealthState.QUIET and key in alerts:
                    end_system_trouble(
                        connection,
                        alerts[key],
                        quiet_for=finding.quiet_for,
                        text=finding.text,
                        at=now,
                    )
                continue
            if key not in alerts:
                seen_s = self.clock() - self._first_seen.setdefault(key, self.clock())
                if not finding.at_once and seen_s < CONFIRM_S:
                    continue
            self._first_seen.pop(key, None)
            if raise_system_trouble(
                connection,
                *key,
                title=finding.title,
                text=finding.text,
                severity=finding.severity,
                detail=finding.detail,
                at=now,
            ):
                log.warning(
                    "service=%s %s: %s", *key, finding.text, extra={"service": finding.service}
                )
