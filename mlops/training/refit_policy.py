"""What a training may be judged by: a search on all bars, or a refit on bars that came since.

A request that a service has answered before, asked again by a schedule or an alarm, is not a
new idea: its recipe is fitted again and judged only on bars after the champion's training
cut and after the search that found the recipe, at the level that has accrued in the service's
yearly budget. So a year of daily retrains on noise promotes nothing. What the recipe forecast
before is its record, which the refit continues. A person's request is a search: every trial of
it is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mlops.models.recipe import Recipe
from mlops.service import Service
from mlops.store import (
    ModelVersion,
    Store,
    alpha_for_refit,
    get_route,
    get_version,
    list_versions,
    spend_alpha,
)

SEARCH_ALPHA = 0.05
LEAST_ALPHA = 1e-9
"""Level of a refit that has nothing to spend: it is judged, reported, and cannot pass."""

MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class RefitPolicy:
    """A recipe to refit and the training cut it is judged from; all None for a search.

    ``continues`` is the version that holds the recipe's record so far.
    """

    recipe: Recipe | None = None
    since: datetime | None = None
    continues: str | None = None

    @property
    def is_refit(self) -> bool:
        return self.recipe is not None


def refit_policy_for(
    store: Store, service: Service, *, request: str, reason: str, watermark: str
) -> RefitPolicy:
    """Decide between search and refit; ``request`` is the request's digest."""
    searches = [
        version
        for version in list_versions(store, service=service.key)
        if version.notes.get("request") == request and not version.notes["refit"]
    ]
    if reason == MANUAL or not searches or searches[0].watermark == watermark:
        return RefitPolicy()
    search, champion = searches[0], champion_of(store, service)
    return RefitPolicy(
        recipe=Recipe.from_dict(search.notes["recipe"]),
        since=_latest_cut(search, champion),
        continues=_latest_of_recipe(search, champion).model_id,
    )


def alpha_for_judgement(
    store: Store,
    service: Service,
    mandate: RefitPolicy,
    *,
    watermark: str,
    testable: bool,
    yearly: float,
    now: datetime,
) -> float:
    """The level of a judgement; a refit spends it, unless too few bars came to test anything."""
    if mandate.recipe is None:
        return SEARCH_ALPHA
    if not testable:
        return max(LEAST_ALPHA, alpha_for_refit(store, service.key, now, yearly=yearly))
    spent = spend_alpha(
        store,
        service.key,
        watermark=watermark,
        recipe_digest=mandate.recipe.digest,
        now=now,
        yearly=yearly,
    )
    return max(LEAST_ALPHA, spent)


def champion_of(store: Store, service: Service) -> ModelVersion | None:
    """The model that serves; None where the baseline does or nothing has begun."""
    route = get_route(store, service.key)
    if route is None or route.champion == route.baseline:
        return None
    return get_version(store, route.champion)


def _latest_of_recipe(search: ModelVersion, champion: ModelVersion | None) -> ModelVersion:
    """The later fit of the search's recipe: its own, or the champion's where that is another."""
    fits = {
        version.trained_until: version
        for version in (champion, search)
        if version is not None
        and version.recipe_digest == search.recipe_digest
        and version.trained_until is not None
    }
    return fits[max(fits)]


def _latest_cut(search: ModelVersion, champion: ModelVersion | None) -> datetime:
    """Neither the recipe was chosen nor the champion fitted on bars after this."""
    cuts = [version.trained_until for version in (search, champion) if version is not None]
    # Nobody knows the cut of a champion that came with claims only.
    return max(cut for cut in cuts if cut is not None)
