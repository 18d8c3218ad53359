"""What a request to a service must look like, by the champion that will answer it."""

from __future__ import annotations

from mlops.data.calendar import load_calendar
from mlops.errors import NotReady
from mlops.features.indicators import reads_clock
from mlops.models.recipe import Recipe
from mlops.rollout.routing import ask_order
from mlops.service import Service
from mlops.serving.engine.model_pool import LoadedModel, Shelf
from mlops.serving.protocol.request_bars import InputSpec, unbroken_bars
from mlops.store.routes import Route

MAX_BARS = 20_000
MAX_WINDOWS = 512


class Specs:
    """Specifications by version, made once."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._made: dict[str, InputSpec] = {}

    def of(self, route: Route) -> InputSpec:
        """What the version that answers first asks for.

        Raises:
            NotReady: when nothing is ready.
        """
        order = ask_order(route, self.shelf.ready(), challenger_first=False)
        if not order:
            raise NotReady(route.service)
        made = self._made.get(order[0])
        if made is None:
            with self.shelf.borrow(order[0]) as model:
                made = self._made[order[0]] = spec_of(model, Service.parse(route.service))
        return made


def spec_of(model: LoadedModel, service: Service) -> InputSpec:
    """What one version asks for."""
    config = model.bundle.config
    recipe = Recipe.from_dict(config["model"]["recipe"])
    return InputSpec(
        timeframe=service.timeframe,
        calendar=load_calendar(str(config["calendar"])),
        min_bars=model.warm_up,
        max_bars=MAX_BARS,
        max_windows=MAX_WINDOWS,
        unbroken_bars=unbroken_bars(recipe),
        needs_clock=any(reads_clock(name) for name in recipe.every_feature),
    )
