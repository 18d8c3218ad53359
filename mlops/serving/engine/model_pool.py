"""The models one process holds: loaded one at a time, proven, lent by count, freed at zero.

    fetching -> verifying -> opening -> golden -> warming -> ready -> (draining) -> gone
         any of these -> failed, until it is forgotten

A model is lent only when it has reproduced its golden examples in this very process.

[[How much memory this process may still take, where the system says so.]]
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

from mlops.data.calendar import load_calendar
from mlops.errors import BundleError, MlopsError, NotLoaded
from mlops.models import golden
from mlops.models.bundle import Bundle, Trust, open_bundle
from mlops.models.manifest import read_manifest
from mlops.models.windows import Window, window_of
from mlops.registry.fetching import fetch_bundle
from mlops.store import ModelVersion

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = MEMINFO, group: Path = CONTROL_GROUP) -> int | None:
    """Bytes of the machine or, where that is less, of the container; None where nothing says."""
    known = [found for found in (_machine(meminfo), _container(group)) if found is not None]
    return min(known, default=None)


def _machine(meminfo: Path) -> int | None:
    kib = _numbers(meminfo).get("MemAvailable:")
    return None if kib is None else kib * 1024


def _container(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        # No control groups here, or no limit ("max").
        return None
    # Pages of files that nobody reads any more count as used and are given up on demand.
    return max(0, limit - used + _numbers(group / "memory.stat").get("inactive_file", 0))


def _numbers(path: Path) -> dict[str, int]:
    """The leading ``name number`` pairs of a file's lines."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {parts[0]: int(parts[1]) for parts in lines if len(parts) > 1 and parts[1].isdigit()}


WARM_BATCHES = (1, 2, 4, 8, 16)
"""Windows in the batches that a model forecasts before it is ready."""

MEMORY_SHARE = 1.2
MEMORY_MARGIN = 64 * 1024**2
"""A bundle is loaded where so many times its bytes and this margin are free."""


class State(StrEnum):
    """Where a model is in this process; the words of the store's acknowledgements."""

    FETCHING = "fetching"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedModel:
    """One model that answers in this process; equal only to itself."""

    model_id: str
    digest: str
    n_bytes: int
    load_ms: float
    bundle: Bundle

    @property
    def warm_up(self) -> int:
        """Bars that one forecast needs, its own included."""
        return int(self.bundle.config["warm_up"])

    def rows(self, window: Window) -> int:
        """Forecasts that a window asks for, at least one: what its work is counted in."""
        return max(1, len(window) - self.warm_up + 1)


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a process says of a model; ``inflight`` counts who has borrowed it."""

    state: State
    digest: str = ""
    bytes: int = 0
    load_ms: float = 0.0
    error: str | None = None
    inflight: int = 0


@dataclass(slots=True, eq=False)
class _Place:
    digest: str
    state: State = State.FETCHING
    n_bytes: int = 0
    model: LoadedModel | None = None
    error: str | None = None
    borrowed: int = 0

    def seen(self) -> ModelState:
        load_ms = self.model.load_ms if self.model else 0.0
        return ModelState(self.state, self.digest, self.n_bytes, load_ms, self.error, self.borrowed)


def stage(name: str, model_id: str) -> None:
    """Called before each stage of a load: fetching, verifying, opening, golden, warming, ready.

    It does nothing; who wants to know where a load is, or to break it there, replaces it.
    """


class ModelPool:
    """Thread-safe. Bundles that lie elsewhere are kept in ``cache``."""

    def __init__(
        self,
        *,
        cache: Path,
        trust: Trust,
        free_memory: Callable[[], int | None] = available_memory,
    ) -> None:
        self.cache = cache
        self.trust = trust
        self._free_memory = free_memory
        self._lock = threading.Lock()
        self._one_load = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._ready: frozenset[str] = frozenset()

    def ready(self) -> frozenset[str]:
        """The models that may be borrowed."""
        return self._ready

    def states(self) -> Mapping[str, ModelState]:
        """Everything that is here, was asked for, or failed."""
        with self._lock:
            return {model_id: place.seen() for model_id, place in self._places.items()}

    def warm_up(self, model_id: str) -> int:
        """Bars that one forecast of a model needs.

        Raises:
            NotLoaded: when it is not here.
        """
        place = self._places.get(model_id)
        if place is None or place.model is None:
            raise NotLoaded(model_id)
        return place.model.warm_up

    def load(self, version: ModelVersion) -> None:
        """Take a version up to ready, after any other load; one that is ready stays so.

        Raises:
            MlopsError: saying why not; the version is failed until `forget`. A version that
                was dropped meanwhile, or has failed before, is `NotLoaded`.
        """
        with self._one_load:
            place = self._placed(version)
            if place is None:
                return
            try:
                self._show(version.model_id, place, self._loaded(version, place))
            except NotLoaded:
                raise
            except Exception as error:
                raise self._failed(version.model_id, place, error) from error

    def forget(self, model_id: str) -> None:
        """Let a failed version be loaded again; what has not failed stays."""
        with self._lock:
            place = self._places.get(model_id)
            if place is not None and place.state is State.FAILED:
                del self._places[model_id]

    def drop(self, model_id: str) -> None:
        """Lend a model no more; it is freed when the last borrower gives it back.

        A load that is under way ends before its next stage.
        """
        with self._lock:
            place = self._places.get(model_id)
            if place is None:
                return
            if place.borrowed:
                place.state = State.DRAINING
            else:
                del self._places[model_id]
            self._count_ready()

    @contextmanager
    def borrow(self, model_id: str) -> Iterator[LoadedModel]:
        """A model, kept here for as long as the block lasts.

        Raises:
            NotLoaded: when it is not ready here.
        """
        place, model = self._lend(model_id)
        try:
            yield model
        finally:
            self._take_back(model_id, place)

    def _lend(self, model_id: str) -> tuple[_Place, LoadedModel]:
        with self._lock:
            place = self._places.get(model_id)
            if place is None or place.state is not State.READY or place.model is None:
                raise NotLoaded(model_id)
            place.borrowed += 1
            return place, place.model

    def _take_back(self, model_id: str, place: _Place) -> None:
        with self._lock:
            place.borrowed -= 1
            if place.state is State.DRAINING and not place.borrowed:
                del self._places[model_id]

    def _placed(self, version: ModelVersion) -> _Place | None:
        """A new place for a version; None where it is ready, or is again."""
        with self._lock:
            place = self._places.get(version.model_id)
            if place is None:
                return self._places.setdefault(version.model_id, _Place(version.digest))
            if place.state is State.FAILED:
                raise NotLoaded(version.model_id)
            # Wanted again while its last borrowers were at it.
            place.state = State.READY
            self._count_ready()
            return None

    def _loaded(self, version: ModelVersion, place: _Place) -> LoadedModel:
        started = perf_counter()
        model_id = version.model_id
        self._enter("fetching", model_id, place, State.FETCHING)
        path = fetch_bundle(version.bundle_uri, version.digest, self.cache)
        self._enter("verifying", model_id, place, State.LOADING)
        _check_digest(read_manifest(path).digest, version)
        place.n_bytes = sum(file.stat().st_size for file in path.iterdir())
        self._check_memory(model_id, place.n_bytes)
        self._enter("opening", model_id, place, State.LOADING)
        bundle = open_bundle(path, self.trust)
        # The files may have changed since they were verified.
        _check_digest(bundle.digest, version)
        self._enter("golden", model_id, place, State.LOADING)
        bundle.check_examples()
        self._enter("warming", model_id, place, State.WARMING)
        warm(bundle)
        load_ms = (perf_counter() - started) * 1e3
        return LoadedModel(model_id, version.digest, place.n_bytes, load_ms, bundle)

    def _enter(self, name: str, model_id: str, place: _Place, state: State) -> None:
        stage(name, model_id)
        with self._lock:
            if self._places.get(model_id) is not place:
                raise NotLoaded(model_id)
            place.state = state

    def _show(self, model_id: str, place: _Place, model: LoadedModel) -> None:
        stage("ready", model_id)
        with self._lock:
            if self._places.get(model_id) is not place:
                raise NotLoaded(model_id)
            place.model, place.state = model, State.READY
            self._count_ready()

    def _failed(self, model_id: str, place: _Place, error: Exception) -> MlopsError:
        """Keep why; what no room of ours raised is put into words."""
        told = error
        if not isinstance(told, MlopsError):
            told = BundleError(
                f"{model_id} does not load here ({type(error).__name__}: {error}); load it with "
                "the release that trained it"
            )
        with self._lock:
            place.state, place.error = State.FAILED, str(told)
        return told

    def _check_memory(self, model_id: str, n_bytes: int) -> None:
        free, needed = self._free_memory(), int(MEMORY_SHARE * n_bytes) + MEMORY_MARGIN
        if free is not None and free < needed:
            raise BundleError(
                f"{model_id} is not loaded: its {n_bytes:,} bytes need {needed:,} bytes of free "
                f"memory and there are {free:,}; end another process or serve fewer services here"
            )

    def _count_ready(self) -> None:
        self._ready = frozenset(
            model_id for model_id, place in self._places.items() if place.state is State.READY
        )


def warm(bundle: Bundle) -> None:
    """Forecast batches of each usual size, made of golden examples that must come out again.

    Raises:
        BundleError: when a forecast differs by more than the tolerance, or is no number.
    """
    calendar, spread = load_calendar(bundle.config["calendar"]), float(bundle.config["spread"])
    examples = bundle.examples()
    windows = [window_of(one.bars, bundle.service.timeframe, calendar) for one in examples]
    for size in WARM_BATCHES:
        forecasts = bundle.forecast_windows(list(islice(cycle(windows), size)))
        for example, found in zip(cycle(examples), forecasts, strict=False):
            got = float(found[-1])
            if golden.deviation(got, example.expected, spread) > golden.RELATIVE_TOLERANCE:
                raise BundleError(
                    f"in a batch of {size} a golden example of {bundle.path.name} gives {got!r} "
                    f"instead of {example.expected!r}; alone it is right, so the batch is wrong"
                )


def _check_digest(found: str, version: ModelVersion) -> None:
    if found != version.digest:
        raise BundleError(
            f"the bundle of {version.model_id} has digest {found[:12]}, registered was "
            f"{version.digest[:12]}; restore {version.bundle_uri} from a copy"
        )
