"""The routes as this replica last read them from the store; kept while the store is away.

The last routes stay in force for as long as it takes. Only a challenger's share expires, by this
process's own monotonic clock: a wrong wall clock on another machine cannot extend it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mlops.store import Route, Store
from mlops.store.engine import Connection
from mlops.store.rollouts import open_targets
from mlops.store.routes import champion_since, read_routes, share_left_s
from mlops.store.sql import read_clock


@dataclass(frozen=True, slots=True)
class RouteState:
    """The route of a service.

    Args:
        since: When its champion went live.
        valid_until: The `time.monotonic` second at which its challenger's share expires.
        target: The version that an open rollout brings live, from the moment it is requested.
    """

    route: Route
    since: datetime
    valid_until: float
    target: str | None = None

    @property
    def valid(self) -> bool:
        """Whether the challenger's share still counts."""
        return time.monotonic() < self.valid_until


@dataclass(frozen=True, slots=True)
class RouteView:
    """All routes as of one reading; ``taken_at`` is a `time.monotonic` second."""

    routes: Mapping[str, RouteState] = field(default_factory=dict)
    taken_at: float = 0.0


def read_route_view(store: Store, before: RouteView | None = None) -> RouteView:
    """Read all routes.

    Args:
        before: The last view. For a champion that is in it, the query for its start is saved.

    Raises:
        StoreError: when the store is away; the caller keeps the view it has.
    """
    # The clock is read first, so that a slow reading shortens a share and never extends it.
    began = time.monotonic()
    with store.read() as connection:
        now, targets = read_clock(connection), open_targets(connection)
        routes = {
            route.service: RouteState(
                route,
                _find_champion_since(connection, route, before),
                began + share_left_s(route, now),
                targets.get(route.service),
            )
            for route in read_routes(connection)
        }
    return RouteView(routes, began)


def _find_champion_since(
    connection: Connection, route: Route, before: RouteView | None
) -> datetime:
    known = None if before is None else before.routes.get(route.service)
    if known is not None and known.route.champion == route.champion:
        return known.since
    return champion_since(connection, route.service) or route.created_at
