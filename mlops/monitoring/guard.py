"""Looks every minute whether the system is in trouble, and sees that people are told.

A role that one process holds at a time, like the controller's, kept apart from it: what it reads
may be slow, and rollouts do not wait. What the last looks saw stands in the alerts themselves, so
that another process can go on; only whether a trouble is more than a moment's is its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mlops.alerts.conditions import close_alerts_of_replaced
from mlops.data.quality import NewestBar
from mlops.errors import StoreError
from mlops.monitoring.system_health import (
    Finding,
    HealthState,
    ServiceSnapshot,
    SystemLimits,
    judge_system,
)
from mlops.service import Service
from mlops.store.alerts import (
    AlertRow,
    Condition,
    Trouble,
    list_alerts,
    raise_alert,
    recover_alert,
)
from mlops.store.engine import Connection, Store
from mlops.store.leases import Lease, acquire, fence, is_known, release
from mlops.store.replicas import live_replicas
from mlops.store.request_counts import TrafficRow, forget_traffic, read_traffic, total
from mlops.store.routes import Route, read_routes
from mlops.store.sql import store_time
from mlops.store.versions import get_version

log = logging.getLogger(__name__)

LEASE = "guard"
CHECK_EVERY_S = 60.0
LEASE_S = 2.5 * CHECK_EVERY_S
CONFIRM_S = 45.0
"""So long a trouble that a restart may show for a moment must be seen before anybody is told."""

HOUR = timedelta(hours=1)


class Guard:
    """Looks; ``newest_bar`` says how new a service's bars are, None where nothing feeds it.

    It is asked with the notes of the champion, which may say where its bars are.

    Traffic older than ``keep_days`` is forgotten; ``now`` replaces the database's clock, ``clock``
    the one that tells how long a trouble has been seen.
    """

    def __init__(
        self,
        store: Store,
        holder: str,
        *,
        newest_bar: Callable[[Service, Mapping[str, Any]], NewestBar | None],
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
        self._notes: dict[str, Mapping[str, Any]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def check_health(self) -> tuple[Finding, ...]:
        """Look at every service once; nothing where another process does it.

        Raises:
            StoreError: when the store is away, or the role was lost on the way.
        """
        self.lease = acquire(self.store, LEASE, self.holder, seconds=LEASE_S)
        if self.lease is None:
            # What this process saw when it last looked is no sign of what lasts.
            self._first_seen.clear()
            return ()
        with self.store.read() as connection:
            now = store_time(connection) if self.now is None else self.now()
            known = self._seen(connection, now)
        # Bars lie on a disk, which may be slow: no transaction waits for it.
        seen = [replace(one, newest_bar=self._newest(one.route)) for one in known]
        found = tuple(finding for one in seen for finding in judge_system(one, self.limits))
        lasting = list_alerts(self.store, lasting_only=True)
        with self.store.write() as connection:
            fence(connection, self.lease)
            forget_traffic(connection, before=now - timedelta(days=self.keep_days))
            self._tell(connection, found, lasting, now)
        close_alerts_of_replaced(self.store, now)
        return found

    def check_health_once(self, pause: Callable[[float], None] = time.sleep) -> tuple[Finding, ...]:
        """The look of a process that does not stay: where none that serves looks any more.

        So somebody says that no replica is live. Where none ever was, nothing is missing.

        Raises:
            StoreError: when the store is away.
        """
        if not is_known(self.store, LEASE):
            return ()
        found = self.check_health()
        if self._first_seen:
            pause(CONFIRM_S)
            found = self.check_health()
        self.step_down()
        return found

    def start(self) -> None:
        """Look from now on."""
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def stop(self, *, wait_s: float = 5.0) -> None:
        """Let the next process look at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(wait_s)

    def step_down(self) -> None:
        """Give the role back."""
        if self.lease is not None:
            release(self.store, self.lease)
            self.lease = None

    def _run(self) -> None:
        while not self._stop.wait(CHECK_EVERY_S):
            try:
                self.check_health()
            except StoreError as error:
                log.warning("the guard could not look: %s", error)
            except Exception:
                # Whatever one look meets, the next one is made.
                log.exception("a look of the guard failed")
        try:
            self.step_down()
        except StoreError as error:
            log.warning("the guard's lease runs out by itself: %s", error)

    def _seen(self, connection: Connection, now: datetime) -> list[ServiceSnapshot]:
        hour = now.replace(minute=0, second=0, microsecond=0)
        replicas = live_replicas(connection)
        asked: dict[tuple[str, str], list[TrafficRow]] = {}
        for row in read_traffic(connection, since=hour - HOUR):
            asked.setdefault((row.service, row.model_id), []).append(row)
        found = []
        for route in read_routes(connection):
            rows = asked.get((route.service, route.champion), [])
            found.append(
                ServiceSnapshot(
                    route=route,
                    this_hour=total([row for row in rows if row.hour >= hour]),
                    two_hours=total(rows),
                    replicas=replicas,
                )
            )
        return found

    def _newest(self, route: Route) -> NewestBar | None:
        try:
            return self.newest_bar(Service.parse(route.service), self._notes_of(route.champion))
        except Exception:
            # One market's bars that cannot be read leave the others, and the rest, watched.
            about = {"service": route.service, "model_id": route.champion}
            told = "service=%s its bars could not be looked at"
            log.exception(told, route.service, extra=about)
            return None

    def _notes_of(self, model_id: str) -> Mapping[str, Any]:
        """They never change, and are asked for every minute."""
        if model_id not in self._notes:
            self._notes[model_id] = get_version(self.store, model_id).notes
        return self._notes[model_id]

    def _tell(
        self,
        connection: Connection,
        found: Sequence[Finding],
        lasting: Sequence[AlertRow],
        now: datetime,
    ) -> None:
        known = {
            (row.service, row.subject): row
            for row in lasting
            if row.condition is Condition.SYSTEM_TROUBLE
        }
        for one in found:
            key = (one.service, str(one.subject))
            if one.state is HealthState.TROUBLE and (key in known or self._is_confirmed(one)):
                self._first_seen.pop(key, None)
                if raise_alert(connection, _trouble(one), at=now):
                    about = {"service": one.service}
                    told = (one.service, one.subject, one.text)
                    log.warning("service=%s %s: %s", *told, extra=about)
            elif one.state is not HealthState.TROUBLE:
                self._first_seen.pop(key, None)
            if one.state is HealthState.QUIET and key in known:
                _recover(connection, one, known, now)

    def _is_confirmed(self, one: Finding) -> bool:
        began = self._first_seen.setdefault((one.service, str(one.subject)), self.clock())
        return one.at_once or self.clock() - began >= CONFIRM_S


def _trouble(one: Finding) -> Trouble:
    return Trouble(
        Condition.SYSTEM_TROUBLE,
        one.service,
        str(one.subject),
        one.title,
        one.text,
        one.severity,
        one.detail,
    )


def _recover(
    connection: Connection,
    one: Finding,
    known: Mapping[tuple[str, str], AlertRow],
    now: datetime,
) -> None:
    """End what was not seen for as long as it takes."""
    if now - known[one.service, str(one.subject)].last_seen_at < one.quiet_for:
        return
    recover_alert(
        connection,
        condition=Condition.SYSTEM_TROUBLE,
        service=one.service,
        subject=str(one.subject),
        at=now,
        text=one.text,
    )
