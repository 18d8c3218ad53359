"""The open connections of one replica, kept below the limit of descriptors of its process."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("mlops.connections")

RESERVED_DESCRIPTORS = 128
"""For the store, the bars, the spool and the log; half of the limit where that is less."""

LOG_EVERY_S = 60.0


class Connection(Protocol):
    """One connection, as the protocol that reads it knows it."""

    transport: asyncio.Transport

    def find_wait_start(self) -> float | None:
        """Since when its client has kept us waiting; None while we answer a request of its."""
        ...


class OpenConnections:
    """Closes the connection that has waited longest for its client when there are too many.

    Idle and half-sent connections rank alike. If all idle ones went first, a client that holds
    many half-sent ones would see each new connection closed before its request has arrived.

    Args:
        limit: Connections that may be open.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._oldest_first: deque[tuple[float, Connection]] = deque()
        self._log = RareLog()

    def make_room(self, connections: set[Connection]) -> None:
        """Close connections until no more than the limit are left."""
        while len(connections) > self.limit:
            oldest = self._find_oldest(connections)
            if oldest is None:
                return
            connections.discard(oldest)
            oldest.transport.abort()
            self._log.warn(
                f"closed an idle or half-sent connection, because {self.limit} are open; "
                "`ulimit -n` sets how many may be"
            )

    def log_refusal(self, why: str) -> None:
        """Log that a request was refused before the app saw it."""
        self._log.warn(f"refused a request: {why}")

    def _find_oldest(self, connections: set[Connection]) -> Connection | None:
        """The one that waits longest; the order is made anew when the last one is used up.

        A connection that began to wait after the order was made waits less than all of it.
        """
        for order_is_new in (False, True):
            if order_is_new:
                self._oldest_first = _sort_by_wait(connections)
            while self._oldest_first:
                since, connection = self._oldest_first.popleft()
                if connection in connections and connection.find_wait_start() == since:
                    return connection
        return None


def _sort_by_wait(connections: set[Connection]) -> deque[tuple[float, Connection]]:
    starts = ((connection.find_wait_start(), connection) for connection in connections)
    waiting = [(since, connection) for since, connection in starts if since is not None]
    return deque(sorted(waiting, key=lambda pair: pair[0]))


class RareLog:
    """Writes a warning of each kind once a minute and counts those in between.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}

    def warn(self, message: str) -> None:
        """Log a message; messages of one kind are equal, so there must be few kinds."""
        now = self._clock()
        due, unwritten = self._kinds.get(message, (now, 0))
        if now < due:
            self._kinds[message] = (due, unwritten + 1)
            return
        more = f" ({unwritten:,} more in the meantime)" if unwritten else ""
        log.warning("%s%s", message, more)
        self._kinds[message] = (now + LOG_EVERY_S, 0)


def count_allowed_connections() -> int:
    """Descriptors that this process may open, less those that its own files need."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        # Linux has no process with more.
        limit = 1 << 30
    return limit - min(RESERVED_DESCRIPTORS, limit // 2)
