"""The models in the memory of one process: loaded one at a time, verified, reference-counted.

    fetching -> verifying -> opening -> golden -> warming -> ready -> (draining) -> gone
         any of these -> failed, until it is forgotten

A model can be borrowed only after it has reproduced its golden examples in this very process. A
dropped model is freed when the last borrower returns it. A load is refused where the memory that
the system says is available would not hold the model.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

from mlops.data.calendar import load_calendar
from mlops.errors import (
    BundleError,
    BundleUnavailable,
    MlopsError,
    ModelUnavailable,
    NotLoaded,
)
from mlops.features.indicators import reads_clock
from mlops.models import golden
from mlops.models.bundle import Bundle, Trust, open_bundle
from mlops.models.manifest import CONFIG, read_manifest
from mlops.models.recipe import Recipe
from mlops.models.windows import Window, window_of
from mlops.registry.fetching import BundleFolders, fetch_bundle
from mlops.serving.protocol.request_bars import unbroken_bars
from mlops.store import ModelVersion
from mlops.store.replicas import LoadCause

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = MEMINFO, group: Path = CONTROL_GROUP) -> int | None:
    """Bytes of memory that this process may still take.

    Args:
        meminfo: Linux's list of memory figures.
        group: Folder of the control group (version 2) of a container.

    Returns:
        The lesser of machine and container; None where neither says.
    """
    known = []
    machine_kib = _read_numbers(meminfo).get("MemAvailable:")
    if machine_kib is not None:
        known.append(machine_kib * 1024)
    # Without control groups there is no such file; without a limit it says "max".
    with suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        # Cached pages of files count as used, but the kernel frees them on demand.
        cached = _read_numbers(group / "memory.stat").get("inactive_file", 0)
        known.append(max(0, limit - used + cached))
    return min(known, default=None)


def _read_numbers(path: Path) -> dict[str, int]:
    """The leading ``name number`` pairs of a file's lines."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {parts[0]: int(parts[1]) for parts in lines if len(parts) > 1 and parts[1].isdigit()}


WARM_BATCHES = (1, 2, 4, 8, 16)
"""Sizes, in windows, of the batches that a model forecasts before it is ready."""

MEMORY_SHARE = 1.2
MEMORY_MARGIN = 64 * 1024**2
"""A load needs `MEMORY_SHARE` times the bundle's bytes, and this margin, of free memory."""


_OF_THE_REPLICA = (BundleUnavailable, ModelUnavailable, OSError, MemoryError, ImportError)
"""Errors of a load that say nothing of the version."""

_EXHAUSTED = ("allocate memory", "out of memory", "can't start new thread")
"""Texts of the plain `RuntimeError` that torch and Python raise where the machine has no more."""


class State(StrEnum):
    """State of a model in this process; stored with the replica's acknowledgement."""

    FETCHING = "fetching"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedModel:
    """A model that is ready; equal only to itself."""

    model_id: str
    digest: str
    n_bytes: int
    load_ms: float
    bundle: Bundle
    needs_clock: bool = False
    unbroken_bars: int = 1

    @property
    def warm_up(self) -> int:
        """Bars that one forecast needs, its own included."""
        return int(self.bundle.config["warm_up"])

    def rows(self, window: Window) -> int:
        """The forecasts that a window asks for, at least one; the unit of a batch's size."""
        return max(1, len(window) - self.warm_up + 1)


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a process reports of a model; ``inflight`` counts its borrowers."""

    state: State
    digest: str = ""
    bytes: int = 0
    load_ms: float = 0.0
    error: str | None = None
    inflight: int = 0


@dataclass(slots=True, eq=False)
class _Slot:
    digest: str
    state: State = State.FETCHING
    n_bytes: int = 0
    model: LoadedModel | None = None
    error: str | None = None
    borrowed: int = 0

    def describe(self) -> ModelState:
        load_ms = self.model.load_ms if self.model else 0.0
        return ModelState(self.state, self.digest, self.n_bytes, load_ms, self.error, self.borrowed)


def stage(name: str, model_id: str) -> None:
    """A hook for tests: called before each stage of a load, and does nothing.

    Args:
        name: fetching, verifying, opening, golden, warming or ready.
    """


class ModelPool:
    """Loads models and lends them; thread-safe.

    Args:
        bundles: Where this machine has bundles, or puts them.
        trust: Which bundles may be opened.
        free_memory: Returns the bytes that may still be taken; None where that is unknown.
    """

    def __init__(
        self,
        *,
        bundles: BundleFolders,
        trust: Trust,
        free_memory: Callable[[], int | None] = available_memory,
    ) -> None:
        self.bundles = bundles
        self.trust = trust
        self._free_memory = free_memory
        self._lock = threading.Lock()
        self._one_load = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._ready: frozenset[str] = frozenset()

    def ready(self) -> frozenset[str]:
        """The ids of the models that can be borrowed."""
        return self._ready

    def states(self) -> Mapping[str, ModelState]:
        """The state of each model that is loaded, loading or failed."""
        with self._lock:
            return {model_id: slot.describe() for model_id, slot in self._slots.items()}

    def warm_up(self, model_id: str) -> int:
        """Bars that one forecast of a model needs.

        Raises:
            NotLoaded: when the model is not loaded here.
        """
        slot = self._slots.get(model_id)
        if slot is None or slot.model is None:
            raise NotLoaded(model_id)
        return slot.model.warm_up

    def read_warm_up(self, version: ModelVersion) -> int:
        """Bars that one forecast of a version needs, from its bundle, which is not loaded.

        Raises:
            BundleError: when the bundle cannot be fetched, or is another one.
        """
        path = fetch_bundle(version.bundle_uri, version.digest, self.bundles)
        manifest = read_manifest(path)
        _check_digest(manifest.digest, version)
        return int(json.loads(manifest.read(path, CONFIG))["warm_up"])

    def load(self, version: ModelVersion) -> None:
        """Load a version, after any other load; a version that is ready stays as it is.

        Raises:
            MlopsError: when the load fails; the version is `State.FAILED` until `forget`.
            NotLoaded: when the version was dropped meanwhile, or has failed before.
        """
        with self._one_load:
            slot = self._claim_slot(version)
            if slot is None:
                return
            try:
                self._load_into(slot, version)
            except NotLoaded:
                raise
            except Exception as error:
                failure = error
                if not isinstance(failure, MlopsError):
                    failure = BundleError(
                        f"{version.model_id} does not load here ({type(error).__name__}: {error}); "
                        "load it with the release that trained it"
                    )
                with self._lock:
                    slot.state, slot.error = State.FAILED, str(failure)
                if failure is error:
                    raise
                raise failure from error

    def forget(self, model_id: str) -> None:
        """Let a failed version be loaded again; does nothing for any other one."""
        with self._lock:
            slot = self._slots.get(model_id)
            if slot is not None and slot.state is State.FAILED:
                del self._slots[model_id]

    def drop(self, model_id: str) -> None:
        """Stop lending a model; it is freed once the last borrower has returned it.

        A load that is under way ends before its next stage.
        """
        with self._lock:
            slot = self._slots.get(model_id)
            if slot is None:
                return
            if slot.borrowed:
                slot.state = State.DRAINING
            else:
                del self._slots[model_id]
            self._update_ready()

    @contextmanager
    def borrow(self, model_id: str) -> Iterator[LoadedModel]:
        """Borrow a model: it stays in memory while the block lasts.

        Raises:
            NotLoaded: when the model is not ready here.
        """
        slot, model = self._acquire(model_id)
        try:
            yield model
        finally:
            with self._lock:
                slot.borrowed -= 1
                if slot.state is State.DRAINING and not slot.borrowed:
                    del self._slots[model_id]

    def _acquire(self, model_id: str) -> tuple[_Slot, LoadedModel]:
        with self._lock:
            slot = self._slots.get(model_id)
            if slot is None or slot.state is not State.READY or slot.model is None:
                raise NotLoaded(model_id)
            slot.borrowed += 1
            return slot, slot.model

    def _claim_slot(self, version: ModelVersion) -> _Slot | None:
        """A new slot to load a version into; None where it needs no load."""
        with self._lock:
            slot = self._slots.get(version.model_id)
            if slot is None:
                return self._slots.setdefault(version.model_id, _Slot(version.digest))
            if slot.state is State.FAILED:
                raise NotLoaded(version.model_id)
            # The version was draining and is wanted again.
            slot.state = State.READY
            self._update_ready()
            return None

    def _load_into(self, slot: _Slot, version: ModelVersion) -> None:
        started = perf_counter()
        model_id = version.model_id
        self._enter("fetching", model_id, slot, State.FETCHING)
        path = fetch_bundle(version.bundle_uri, version.digest, self.bundles, key=self.trust.key)
        self._enter("verifying", model_id, slot, State.LOADING)
        _check_digest(read_manifest(path).digest, version)
        slot.n_bytes = sum(file.stat().st_size for file in path.iterdir())
        self._check_memory(model_id, slot.n_bytes)
        self._enter("opening", model_id, slot, State.LOADING)
        bundle = open_bundle(path, self.trust)
        # Again, because the files may have changed since they were verified.
        _check_digest(bundle.digest, version)
        self._enter("golden", model_id, slot, State.LOADING)
        bundle.check_examples()
        self._enter("warming", model_id, slot, State.WARMING)
        warm(bundle)
        load_ms = (perf_counter() - started) * 1e3
        recipe = Recipe.from_dict(bundle.config["model"]["recipe"])
        needs_clock = any(reads_clock(name) for name in recipe.every_feature)
        model = LoadedModel(
            model_id,
            version.digest,
            slot.n_bytes,
            load_ms,
            bundle,
            needs_clock=needs_clock,
            unbroken_bars=unbroken_bars(recipe),
        )
        self._enter("ready", model_id, slot, State.READY, model=model)

    def _enter(
        self,
        name: str,
        model_id: str,
        slot: _Slot,
        state: State,
        *,
        model: LoadedModel | None = None,
    ) -> None:
        """Begin a stage of a load, unless the model was dropped meanwhile."""
        stage(name, model_id)
        with self._lock:
            if self._slots.get(model_id) is not slot:
                raise NotLoaded(model_id)
            slot.model, slot.state = model, state
            self._update_ready()

    def _check_memory(self, model_id: str, n_bytes: int) -> None:
        free, needed = self._free_memory(), int(MEMORY_SHARE * n_bytes) + MEMORY_MARGIN
        if free is not None and free < needed:
            raise BundleUnavailable(
                f"{model_id} is not loaded: its {n_bytes:,} bytes need {needed:,} bytes of free "
                f"memory and there are {free:,}; end another process or serve fewer services here"
            )

    def _update_ready(self) -> None:
        self._ready = frozenset(
            model_id for model_id, slot in self._slots.items() if slot.state is State.READY
        )


def cause_of(error: BaseException) -> LoadCause:
    """Whether a failed load speaks against its replica or against the version.

    The error and those that it was raised from are looked at; an unknown one is the version's.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).lower()
        exhausted = isinstance(cause, RuntimeError) and any(words in text for words in _EXHAUSTED)
        if exhausted or isinstance(cause, _OF_THE_REPLICA):
            return LoadCause.REPLICA
        cause = cause.__cause__
    return LoadCause.VERSION


def warm(bundle: Bundle) -> None:
    """Forecast one batch of each size in `WARM_BATCHES`, made of the golden examples.

    Raises:
        BundleError: when a forecast is NaN, or differs from the example by more than the
            tolerance.
    """
    calendar, spread = load_calendar(bundle.config["calendar"]), float(bundle.config["spread"])
    examples = bundle.examples()
    windows = [window_of(example.bars, bundle.service.timeframe, calendar) for example in examples]
    for size in WARM_BATCHES:
        batch = bundle.forecast_windows(list(islice(cycle(windows), size)))
        for example, forecasts in zip(cycle(examples), batch, strict=False):
            value = float(forecasts[-1])
            if golden.deviation(value, example.expected, spread) > golden.RELATIVE_TOLERANCE:
                raise BundleError(
                    f"in a batch of {size} a golden example of {bundle.path.name} gives {value!r} "
                    f"instead of {example.expected!r}; alone it is right, so the batch is wrong"
                )


def _check_digest(digest: str, version: ModelVersion) -> None:
    if digest != version.digest:
        raise BundleError(
            f"the bundle of {version.model_id} has digest {digest[:12]}, registered was "
            f"{version.digest[:12]}; restore {version.bundle_uri} from a copy"
        )
