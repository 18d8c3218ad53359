"""What a replica last saw of the store, kept whole while the store is away.

Empty knowledge is never "nothing to serve": the last routes stay. Only a challenger's share runs
out, by this process's own monotonic clock, so that no clock of another machine can stretch it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlops.store.clock import read_clock
from mlops.store.engine import Store
from mlops.store.live import Route, read_routes


@dataclass(frozen=True, slots=True)
class Sighted:
    """A route, and the `time.monotonic` second until which its challenger's share counts."""

    route: Route
    valid_until: float

    @property
    def valid(self) -> bool:
        return time.monotonic() < self.valid_until


@dataclass(frozen=True, slots=True)
class Sight:
    """Every route as of one reading; ``taken_at`` is a `time.monotonic` second."""

    routes: Mapping[str, Sighted] = field(default_factory=dict)
    taken_at: float = 0.0


def look(store: Store) -> Sight:
    """Read all routes.

    Raises:
        StoreError: when the store is away; the caller keeps what it saw before.
    """
    # Taken before the reading: what the reading costs shortens a share and never stretches it.
    began = time.monotonic()
    with store.read() as connection:
        now = read_clock(connection)
        routes = read_routes(connection)
    return Sight(
        {
            route.service: Sighted(route, began + max(0.0, (route.valid_until or 0.0) - now))
            for route in routes
        },
        began,
    )
