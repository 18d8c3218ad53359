"""What a replica last saw of the store, kept whole while the store is away.

Empty knowledge is never "nothing to serve": the last routes stay. Only a challenger's share runs
out, by this process's own monotonic clock, so that no clock of another machine can stretch it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mlops.store import Connection, Route, Store, champion_since, read_clock, read_routes


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route, since when its champion serves, and how long its challenger's share counts.

    ``valid_until`` is a `time.monotonic` second.
    """

    route: Route
    since: datetime
    valid_until: float

    @property
    def valid(self) -> bool:
        return time.monotonic() < self.valid_until


@dataclass(frozen=True, slots=True)
class RouteView:
    """Every route as of one reading; ``taken_at`` is a `time.monotonic` second."""

    routes: Mapping[str, RouteState] = field(default_factory=dict)
    taken_at: float = 0.0


def read_route_view(store: Store, before: RouteView | None = None) -> RouteView:
    """Read all routes; of those that ``before`` has seen, only what may have changed.

    Raises:
        StoreError: when the store is away; the caller keeps what it saw before.
    """
    # Taken before the reading: what the reading costs shortens a share and never stretches it.
    began = time.monotonic()
    with store.read() as connection:
        now = read_clock(connection)
        routes = {
            route.service: RouteState(
                route,
                _since(connection, route, before),
                began + max(0.0, (route.valid_until or 0.0) - now),
            )
            for route in read_routes(connection)
        }
    return RouteView(routes, began)


def _since(connection: Connection, route: Route, before: RouteView | None) -> datetime:
    known = None if before is None else before.routes.get(route.service)
    if known is not None and known.route.champion == route.champion:
        return known.since
    return champion_since(connection, route.service) or route.created_at
