"""Services as answers: who answers them, what was live, what was forecast and what came."""

from __future__ import annotations

from mlops.api.documents import Document, Id, Utc
from mlops.api.model_documents import LivePeriodDocument
from mlops.service import Service
from mlops.store import Route
from mlops.store.forecasts import Role
from mlops.store.services import ForecastWithOutcome


class ServiceDocument(Document):
    """Who answers a service; ``retired_at`` is null while it is in use.

    ``challenger_share`` is the share of the requests that a rollout gives to the challenger.
    """

    service: Id
    venue: str
    symbol: str
    timeframe: str
    target: str
    horizon: int
    generation: int
    champion: Id
    previous_champion: Id | None
    baseline: Id
    challenger: Id | None
    challenger_share: float
    created_at: Utc
    updated_at: Utc
    retired_at: Utc | None

    @classmethod
    def of(cls, route: Route) -> ServiceDocument:
        service = Service.parse(route.service)
        return cls(
            service=route.service,
            venue=service.venue,
            symbol=service.symbol,
            timeframe=service.timeframe.name,
            target=str(service.target),
            horizon=service.horizon,
            generation=route.generation,
            champion=route.champion,
            previous_champion=route.previous_champion,
            baseline=route.baseline,
            challenger=route.challenger,
            challenger_share=route.weight_bp / 10_000,
            created_at=route.created_at,
            updated_at=route.updated_at,
            retired_at=route.retired_at,
        )


class ServicePage(Document):
    """Services by key; ``next`` is the cursor of the next page."""

    services: list[ServiceDocument]
    next: str | None


class ServiceHistory(Document):
    """Every change of what was live, oldest first; times are the wall clock's."""

    service: Id
    periods: list[LivePeriodDocument]


class LiveDocument(Document):
    """What was live at a moment; ``period`` is null before the service began."""

    service: Id
    at: Utc
    period: LivePeriodDocument | None


class ForecastDocument(Document):
    """A forecast made at the close of the bar that opened at ``bar``, and what came.

    ``low`` and ``high`` bound 90 % of the errors on the version's reference bars. ``outcome``,
    ``known_at`` and ``baseline``, the forecast of the declared baseline, are null before the
    outcome is known. Volatilities are logarithms.
    """

    bar: Utc
    model_id: Id
    role: Role
    forecast: float
    low: float | None
    high: float | None
    made_at: Utc
    outcome: float | None
    known_at: Utc | None
    baseline: float | None

    @classmethod
    def of(cls, row: ForecastWithOutcome) -> ForecastDocument:
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class ForecastList(Document):
    """Forecasts of a service, oldest bar first; of too many the newest are kept."""

    service: Id
    forecasts: list[ForecastDocument]
