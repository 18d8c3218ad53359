"""Services: who is live, what was forecast and what came."""

from __future__ import annotations

from datetime import datetime

from mlops.errors import SettingsError
from mlops.manager.opened import Opened
from mlops.store import Route
from mlops.store.services import (
    ForecastWithOutcome,
    list_route_page,
    list_with_outcomes,
    require_route,
)

MOST_FORECASTS = 5_000
"""Rows of forecasts that one call reads."""


class Services(Opened):
    """Looks services up; changes nothing."""

    def service_route(self, service: str) -> Route:
        """Who answers a service, also where it was retired.

        Raises:
            ServiceNotFound: when no version of it was registered yet.
        """
        return require_route(self.store, service)

    def service_page(
        self, *, after: str | None = None, limit: int = 50
    ) -> tuple[tuple[Route, ...], str | None]:
        """The routes of services by key, retired ones too, and the key the page ends with.

        Args:
            after: Key of the last service of the page before; None for the first page.
            limit: Most services of the page.

        Returns:
            The routes, and the ``after`` of the next page, None at the end.
        """
        return list_route_page(self.store, after=after, limit=limit)

    def service_forecasts(
        self,
        service: str,
        *,
        model_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = MOST_FORECASTS,
    ) -> tuple[ForecastWithOutcome, ...]:
        """Forecasts of bars opened in ``[since, until)`` beside their outcomes, oldest first.

        Args:
            service: Key of the service.
            model_id: Of this version, whatever its role; None for the forecasts of record.
            since: Market time; None for all bars.
            until: Market time; None for all bars.
            limit: Of more rows the newest are kept; at most 5,000.

        Raises:
            ServiceNotFound: when no version of it was registered yet.
            SettingsError: for a limit out of range.
        """
        if not 1 <= limit <= MOST_FORECASTS:
            raise SettingsError(
                f"limit={limit}: one call reads 1 to {MOST_FORECASTS:,} forecasts; choose such a "
                "limit, and since and until for the others"
            )
        require_route(self.store, service)
        return list_with_outcomes(
            self.store, service, model_id=model_id, since=since, until=until, limit=limit
        )
