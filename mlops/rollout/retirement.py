"""Ends a service for good, or brings it back.

A retired service keeps its versions, its history and its outcomes. No replica serves it or waits
for it, no monitor looks at it, and it starts no rollout and no training.
"""

from __future__ import annotations

from dataclasses import replace

from mlops.errors import RolloutError, ServiceNotFound
from mlops.rollout.wishes import end_wish
from mlops.store import Route, Store, audit
from mlops.store.alerts import list_alerts, recover_alert
from mlops.store.rollouts import lock_waiting_rollout, open_rollout
from mlops.store.routes import change_route, lock_route

RETIRE, RESTORE = "retire_service", "restore_service"
RETIRED = "the service was retired"


def retire_service(store: Store, service: str, why: audit.Why) -> Route:
    """Retire a service; its alerts and a rollout that waits end.

    Raises:
        RolloutError: when there is no such service, it is retired already, or a rollout is open.
    """
    alerts = list_alerts(store, service=service, lasting_only=True)
    with store.write() as connection:
        route = _require_route(lock_route(connection, service), service)
        if route.retired_at is not None:
            raise RolloutError(f"{service} was retired at {route.retired_at:%Y-%m-%d %H:%M} UTC")
        rollout = open_rollout(connection, service)
        if rollout is not None:
            raise RolloutError(
                f"{rollout.id} is bringing {rollout.to_version} live on {service}; abort it before "
                "the service is retired"
            )
        wish = lock_waiting_rollout(connection, service)
        if wish is not None:
            end_wish(connection, wish, route, RETIRED, why.at)
        for alert in alerts:
            recover_alert(
                connection,
                condition=alert.condition,
                service=service,
                subject=alert.subject,
                at=why.at,
                text=RETIRED,
            )
        return change_route(connection, route, replace(route, retired_at=why.at), RETIRE, why)


def restore_service(store: Store, service: str, why: audit.Why) -> Route:
    """Bring a retired service back, with the champion that it had.

    Raises:
        RolloutError: when there is no such service, or it is not retired.
    """
    with store.write() as connection:
        route = _require_route(lock_route(connection, service), service)
        if route.retired_at is None:
            raise RolloutError(f"{service} is not retired; there is nothing to restore")
        return change_route(connection, route, replace(route, retired_at=None), RESTORE, why)


def _require_route(route: Route | None, service: str) -> Route:
    if route is None:
        raise ServiceNotFound(f"service {service} has not begun; look at its name with list_routes")
    return route
