"""Decides whether a training is a search on all bars or a refit judged on new bars, and its level.

A request that a service has answered before, made again by a schedule or a trigger, is a refit:
the recipe that the search found is fitted again and judged only on bars after the champion's
training cut and after the search that found the recipe. Its level is what has accrued in the
service's yearly budget, so that a year of daily retrains on noise promotes nothing. What the
recipe forecast before is its record, which the refit continues.

A person's request is a search: all its trials are counted, and it is judged at `SEARCH_ALPHA`.
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
from mlops.store.versions import newest_searches

SEARCH_ALPHA = 0.05
LEAST_ALPHA = 1e-9
"""Level of a refit whose budget is spent: it is judged and reported, and cannot pass."""

MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class RefitPolicy:
    """The recipe to refit; all fields are None for a search.

    Args:
        recipe: Fitted again as it is.
        since: The training cut: only forecasts made after it are judged.
        continues: Id of the version whose bundle holds the recipe's record so far.
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
    """Decide between search and refit.

    A request is refitted when it was searched before on other bars and no person makes it.

    Args:
        request: Digest of the request (`request_digest`).
        reason: Why the training runs; `MANUAL` for a person's request.
        watermark: Content hash of the bars that are there now.
    """
    searches = newest_searches(list_versions(store, service=service.key))
    search = searches.get((service.key, request))
    if reason == MANUAL or search is None or search.watermark == watermark:
        return RefitPolicy()
    champion = champion_of(store, service)
    # The recipe was not chosen, and the champion not fitted, on bars after the later of their
    # cuts. The cut of a champion that was trained elsewhere is unknown.
    cuts = [version.trained_until for version in (search, champion) if version is not None]
    return RefitPolicy(
        recipe=Recipe.from_dict(search.notes["recipe"]),
        since=max(cut for cut in cuts if cut is not None),
        continues=_latest_fit(search, champion).model_id,
    )


def alpha_for_judgement(
    store: Store,
    service: Service,
    policy: RefitPolicy,
    *,
    watermark: str,
    testable: bool,
    yearly: float,
    now: datetime,
) -> float:
    """The level of a judgement; for a refit this spends it from the service's yearly budget.

    Args:
        watermark: Content hash of the bars: the same bars and recipe spend once.
        testable: Whether enough bars came to judge by; otherwise nothing is spent.
        yearly: Budget of false promotions a year.
        now: Market time.
    """
    if policy.recipe is None:
        return SEARCH_ALPHA
    if not testable:
        return max(LEAST_ALPHA, alpha_for_refit(store, service.key, now, yearly=yearly))
    spent = spend_alpha(
        store,
        service.key,
        watermark=watermark,
        recipe_digest=policy.recipe.digest,
        now=now,
        yearly=yearly,
    )
    return max(LEAST_ALPHA, spent)


def champion_of(store: Store, service: Service) -> ModelVersion | None:
    """The version that serves; None where the baseline serves or the service has not begun."""
    route = get_route(store, service.key)
    if route is None or route.champion == route.baseline:
        return None
    return get_version(store, route.champion)


def _latest_fit(search: ModelVersion, champion: ModelVersion | None) -> ModelVersion:
    """The later fit of the search's recipe: its own, or the champion's of the same recipe."""
    fits = {
        version.trained_until: version
        for version in (champion, search)
        if version is not None
        and version.recipe_digest == search.recipe_digest
        and version.trained_until is not None
    }
    return fits[max(fits)]
