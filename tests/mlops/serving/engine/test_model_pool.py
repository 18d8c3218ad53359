"""A model can be borrowed once it is verified, and is freed when it has no borrower."""

from __future__ import annotations

import errno
import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops.errors import (
    BundleError,
    BundleUnavailable,
    MlopsError,
    ModelError,
    ModelUnavailable,
    NotLoaded,
)
from mlops.models.bundle import Bundle, Trust
from mlops.models.manifest import MANIFEST, WEIGHTS
from mlops.models.signing import SigningKey
from mlops.registry.fetching import BundleFolders
from mlops.serving.engine import model_pool
from mlops.serving.engine.model_pool import ModelPool, State, available_memory, cause_of
from mlops.store import ModelVersion, Store, get_version
from mlops.store.replicas import LoadCause

STAGES = ["fetching", "verifying", "opening", "golden", "warming", "ready"]


@pytest.fixture
def version(store: Store, library) -> ModelVersion:
    return get_version(store, library.versions[0])


@pytest.fixture
def pool(library, tmp_path: Path) -> ModelPool:
    return ModelPool(bundles=folders(library, tmp_path), trust=library.registry.trust)


def folders(library, tmp_path: Path) -> BundleFolders:
    """Those of a process whose cache is empty."""
    known = library.registry.bundles
    return replace(known, cache=tmp_path / "bundles", in_place=(*known.in_place, tmp_path))


@pytest.fixture
def at_stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, str], None]], None]:
    """Have something called before each stage of a load."""
    return lambda call: monkeypatch.setattr(model_pool, "stage", call)


@pytest.fixture
def damaged(version: ModelVersion, tmp_path: Path) -> ModelVersion:
    """The version with a bundle of its own, to be broken."""
    copy = tmp_path / "copy"
    shutil.copytree(Path(version.bundle_uri.removeprefix("file://")), copy)
    return replace(version, bundle_uri=copy.as_uri())


def state(pool: ModelPool, version: ModelVersion) -> State | None:
    model = pool.states().get(version.model_id)
    return None if model is None else model.state


def test_a_load_goes_through_its_stages_in_order(pool, version, at_stage):
    seen = []
    at_stage(lambda name, model_id: seen.append((name, model_id)))
    pool.load(version)
    assert seen == [(name, version.model_id) for name in STAGES]


def test_every_stage_shows_and_none_but_the_last_is_ready(pool, version, at_stage):
    seen = []
    at_stage(lambda name, _: seen.append((state(pool, version), version.model_id in pool.ready())))
    pool.load(version)
    assert [shown for shown, _ in seen] == [
        State.FETCHING, State.FETCHING, State.LOADING, State.LOADING, State.LOADING, State.WARMING
    ]  # fmt: skip
    assert not any(ready for _, ready in seen)
    assert pool.ready() == {version.model_id}


def test_a_ready_model_says_what_it_is_and_cost(pool, version):
    pool.load(version)
    state = pool.states()[version.model_id]
    files = Path(version.bundle_uri.removeprefix("file://")).iterdir()
    assert (state.digest, state.bytes) == (version.digest, sum(f.stat().st_size for f in files))
    assert (state.error, state.inflight) == (None, 0)
    assert state.load_ms > 0


def test_a_borrowed_model_forecasts(pool, version):
    pool.load(version)
    with pool.borrow(version.model_id) as model:
        assert model.bundle.check_examples() <= 1e-5
        assert pool.warm_up(version.model_id) == model.warm_up
        assert pool.states()[version.model_id].inflight == 1
    assert pool.states()[version.model_id].inflight == 0


@pytest.mark.parametrize("reads", [False, True])
def test_a_loaded_model_says_whether_it_reads_the_clock(pool, version, monkeypatch, reads):
    if reads:
        monkeypatch.setattr(model_pool, "reads_clock", lambda feature: True)
    pool.load(version)
    with pool.borrow(version.model_id) as model:
        assert model.needs_clock is reads


def test_a_model_that_is_not_loaded_cannot_be_borrowed(pool):
    with pytest.raises(NotLoaded, match="lstm_x is not loaded"), pool.borrow("lstm_x"):
        pass
    with pytest.raises(NotLoaded):
        pool.warm_up("lstm_x")


def _other_digest(version: ModelVersion, copy: Path) -> ModelVersion:
    return replace(version, digest="0" * 64)


def _altered(version: ModelVersion, copy: Path) -> ModelVersion:
    (copy / WEIGHTS).write_bytes(b"rotten")
    return version


def _gone(version: ModelVersion, copy: Path) -> ModelVersion:
    shutil.rmtree(copy)
    return version


def _unreadable(version: ModelVersion, copy: Path) -> ModelVersion:
    """Its manifest is not there (yet): reading it is an error of the file system."""
    (copy / MANIFEST).unlink()
    return version


@pytest.mark.parametrize(
    ("damage", "words"),
    [(_other_digest, "registered was 000000"), (_altered, "was altered"), (_gone, "no bundle")],
)
def test_a_bundle_that_is_not_what_was_registered_fails(pool, damaged, tmp_path, damage, words):
    broken = damage(damaged, tmp_path / "copy")
    with pytest.raises(BundleError, match=words):
        pool.load(broken)
    state = pool.states()[broken.model_id]
    assert state.state is State.FAILED
    assert words in (state.error or "")
    assert pool.ready() == frozenset()


def _raise_from(cause: Exception) -> BundleError:
    error = BundleError("the model does not load")
    error.__cause__ = ModelError("its class does not import")
    error.__cause__.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (BundleError("golden example 0 gives 1.0 instead of 2.0"), LoadCause.VERSION),
        (_raise_from(KeyError("recipe")), LoadCause.VERSION),
        (BundleUnavailable("there is no bundle here"), LoadCause.REPLICA),
        (ModelUnavailable("not an allowed custom model"), LoadCause.REPLICA),
        (OSError(errno.EMFILE, "too many open files"), LoadCause.REPLICA),
        (_raise_from(MemoryError()), LoadCause.REPLICA),
        (
            _raise_from(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
            LoadCause.REPLICA,
        ),
        (_raise_from(RuntimeError("size mismatch for head.weight")), LoadCause.VERSION),
        (_raise_from(ModuleNotFoundError("ours")), LoadCause.REPLICA),
    ],
)
def test_a_failed_load_speaks_against_its_replica_or_against_the_version(error, cause):
    assert cause_of(error) is cause


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (_other_digest, LoadCause.VERSION),
        (_altered, LoadCause.VERSION),
        (_gone, LoadCause.REPLICA),
        (_unreadable, LoadCause.REPLICA),
    ],
)
def test_what_is_wrong_with_the_files_says_whose_fault_it_is(
    pool, damaged, tmp_path, damage, cause
):
    with pytest.raises(MlopsError) as failed:
        pool.load(damage(damaged, tmp_path / "copy"))
    assert cause_of(failed.value) is cause


def test_a_bundle_signed_elsewhere_fails(version, library, tmp_path):
    other = Trust(SigningKey(b"other key of 32 bytes or more .."))
    pool = ModelPool(bundles=folders(library, tmp_path), trust=other)
    words = "was not signed with this installation's key"
    with pytest.raises(BundleUnavailable, match=words):
        pool.load(version)


def test_a_model_that_forecasts_something_else_fails(pool, version, monkeypatch):
    right = Bundle.forecast
    monkeypatch.setattr(Bundle, "forecast", lambda self, dataset: right(self, dataset) + 1.0)
    with pytest.raises(BundleError, match="golden example 0"):
        pool.load(version)
    assert state(pool, version) is State.FAILED


def test_a_model_whose_batches_give_no_number_fails(pool, version, monkeypatch):
    def nothing(self, windows):
        return [np.full(len(window), np.nan) for window in windows]

    monkeypatch.setattr(Bundle, "forecast_windows", nothing)
    with pytest.raises(MlopsError, match=r"in a batch of 1 a golden example of .* gives nan"):
        pool.load(version)
    assert state(pool, version) is State.FAILED


def test_a_model_that_batches_wrongly_fails(pool, version, monkeypatch):
    """Alone every example comes out; the second of a batch is the first again."""
    right = Bundle.forecast_windows
    monkeypatch.setattr(
        Bundle, "forecast_windows", lambda self, windows: right(self, windows[:1] * len(windows))
    )
    with pytest.raises(MlopsError, match="in a batch of 2 a golden example"):
        pool.load(version)


def test_warming_tries_every_usual_batch(pool, version, monkeypatch):
    sizes = []
    together = Bundle.forecast_windows
    monkeypatch.setattr(
        Bundle,
        "forecast_windows",
        lambda self, windows: sizes.append(len(windows)) or together(self, windows),
    )
    pool.load(version)
    assert sizes == [1, 2, 4, 8, 16]


def test_a_load_that_memory_cannot_hold_is_refused(version, library):
    known = library.registry
    pool = ModelPool(bundles=known.bundles, trust=known.trust, free_memory=lambda: 10**6)
    with pytest.raises(BundleUnavailable, match="bytes of free memory and there are 1,000,000"):
        pool.load(version)
    assert state(pool, version) is State.FAILED


def test_where_memory_is_unknown_a_load_is_tried(version, library):
    known = library.registry
    pool = ModelPool(bundles=known.bundles, trust=known.trust, free_memory=lambda: None)
    pool.load(version)
    assert version.model_id in pool.ready()


@pytest.mark.parametrize("name", STAGES)
def test_an_error_in_any_stage_is_kept_until_it_is_forgotten(pool, version, at_stage, name):
    def broken(now, _):
        if now == name:
            raise RuntimeError("out of luck")

    at_stage(broken)
    with pytest.raises(BundleError, match="RuntimeError: out of luck"):
        pool.load(version)
    assert "out of luck" in (pool.states()[version.model_id].error or "")
    with pytest.raises(NotLoaded):
        pool.load(version)
    at_stage(lambda *_: None)
    pool.forget(version.model_id)
    pool.load(version)
    assert pool.ready() == {version.model_id}


def test_only_failures_are_forgotten(pool, version):
    pool.load(version)
    pool.forget(version.model_id)
    pool.forget("lstm_x")
    assert pool.ready() == {version.model_id}


def test_a_ready_model_is_not_loaded_again(pool, version, at_stage):
    pool.load(version)
    seen = []
    at_stage(lambda name, _: seen.append(name))
    pool.load(version)
    assert seen == []


def test_a_dropped_model_without_borrowers_is_freed_at_once(pool, version):
    pool.load(version)
    with pool.borrow(version.model_id) as model:
        freed = weakref.ref(model)
    del model
    pool.drop(version.model_id)
    gc.collect()
    assert (pool.states(), pool.ready(), freed()) == ({}, frozenset(), None)


def test_a_dropped_model_drains_until_its_last_borrower_returns_it(pool, version):
    pool.load(version)
    with pool.borrow(version.model_id) as model:
        with pool.borrow(version.model_id):
            pool.drop(version.model_id)
            pool.drop(version.model_id)
        assert state(pool, version) is State.DRAINING
        assert pool.ready() == frozenset()
        with pytest.raises(NotLoaded), pool.borrow(version.model_id):
            pass
        assert model.bundle.check_examples() <= 1e-5
    assert pool.states() == {}


def test_a_draining_model_that_is_wanted_again_stays(pool, version, at_stage):
    pool.load(version)
    seen = []
    at_stage(lambda name, _: seen.append(name))
    with pool.borrow(version.model_id):
        pool.drop(version.model_id)
        pool.load(version)
    assert pool.ready() == {version.model_id}
    assert seen == []


@pytest.mark.parametrize("name", STAGES)
def test_a_model_dropped_while_it_loads_never_becomes_ready(pool, version, at_stage, name):
    at_stage(lambda now, model_id: pool.drop(model_id) if now == name else None)
    with pytest.raises(NotLoaded):
        pool.load(version)
    assert (pool.states(), pool.ready()) == ({}, frozenset())


def test_a_borrower_that_raises_returns_the_model(pool, version):
    pool.load(version)
    with pytest.raises(RuntimeError), pool.borrow(version.model_id):
        raise RuntimeError
    assert pool.states()[version.model_id].inflight == 0


def test_one_model_loads_at_a_time(pool, store, library, at_stage):
    versions = [get_version(store, model_id) for model_id in library.versions]
    most: list[int] = []
    active: set[str] = set()

    def count(name, model_id):
        if name == "fetching":
            active.add(model_id)
        most.append(len(active))
        if name == "ready":
            active.discard(model_id)

    at_stage(count)
    threads = [threading.Thread(target=pool.load, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert pool.ready() == set(library.versions)


def test_a_remote_bundle_is_fetched_into_the_cache(library, version, tmp_path, monkeypatch):
    asked = []

    def fetch(uri, digest, bundles, *, key):
        asked.append((uri, digest, bundles.cache, key))
        return Path(version.bundle_uri.removeprefix("file://"))

    monkeypatch.setattr(model_pool, "fetch_bundle", fetch)
    trust = library.registry.trust
    pool = ModelPool(bundles=folders(library, tmp_path), trust=trust)
    pool.load(replace(version, bundle_uri="s3://models/1"))
    assert asked == [("s3://models/1", version.digest, tmp_path / "bundles", trust.key)]


# Free memory -------------------------------------------------------------------------------


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  900 kB\nMemAvailable:  500 kB\nHugePages_Total: 0\n")
    return path


def group(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)
    return folder


def test_the_machine_says_what_is_available(meminfo, tmp_path):
    assert available_memory(meminfo, tmp_path / "none") == 500 * 1024


def test_a_container_may_have_less_and_file_pages_are_given_up(meminfo, tmp_path):
    limits = group(tmp_path, max="1000\n", current="900\n", stat="anon 1\ninactive_file 300\n")
    assert available_memory(meminfo, limits) == 400


def test_a_container_without_a_limit_has_the_machines_memory(meminfo, tmp_path):
    limits = group(tmp_path, max="max\n", current="900\n")
    assert available_memory(meminfo, limits) == 500 * 1024


def test_a_container_over_its_limit_has_nothing(meminfo, tmp_path):
    limits = group(tmp_path, max="800\n", current="900\n")
    assert available_memory(meminfo, limits) == 0


def test_free_memory_is_unknown_where_no_file_says_it(tmp_path):
    assert available_memory(tmp_path / "none", tmp_path) is None
