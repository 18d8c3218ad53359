"""A copy of an installation is whole, is checked, and lives on at another place."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mlops.backup import find_problems, restore, restore_backup, take, take_backup
from mlops.backup.contents import ARTIFACTS, KEYS, LIST, STORE, read_backup
from mlops.backup.scratch import scratch_folder
from mlops.data.simulator import simulate_bars
from mlops.errors import BackupError, LeaseLost, StoreError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.installation import Installation
from mlops.models.manifest import SIGNATURE
from mlops.models.signing import SigningKey, load_key, load_or_make_key
from mlops.paths import path_of
from mlops.registry import ensure_service
from mlops.registry.connection import key_file, load
from mlops.registry.mirror import MODEL_ID_TAG
from mlops.registry.ownership import exclusive_registration
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import Store, Why, get_route, list_versions
from mlops.store.leases import Lease, acquire_lease, current_holder
from tests.conftest import mlflow_forgets
from tests.project import seeded, skip_verification
from tests.stores import NOW

SERVICE = Service.of(
    venue="simulator", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)


MLFLOW_FILE = Path("mlruns", "mlflow.db")


@dataclass(frozen=True)
class Place:
    """An installation, and where its copies are put."""

    installation: Installation
    copies: Path

    def take(self) -> Path:
        return take_backup(self.installation, self.copies)[0]

    @property
    def store_file(self) -> Path:
        return self.installation.home / "store.db"

    @property
    def bundle(self) -> Path:
        return path_of(list_versions(self.installation.store)[0].bundle_uri)


def open_at(home: Path, tracking_uri: str = "", **options: Any) -> Installation:
    # MLflow writes its address into the environment, where another test's settings would find it.
    return Installation(
        Settings(_env_file=None, mlops_base_path=home, mlflow_tracking_uri=tracking_uri, **options)
    )


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[Installation]:
    """An installation that serves one service by its baseline; for reading only."""
    target = TargetSpec(SERVICE.target, SERVICE.horizon)
    dataset = Dataset(simulate_bars(600, seed=1), timeframe=SERVICE.timeframe, target=target)
    home = seeded(tmp_path_factory.mktemp("original") / "base", mlflow_template)
    with mlflow_forgets(), pytest.MonkeyPatch.context() as patch:
        skip_verification(patch)
        installation = open_at(home)
        ensure_service(installation.registry, SERVICE, dataset, Why(NOW))
        yield installation
        installation.close()


@pytest.fixture(scope="module")
def copy(original: Installation) -> Path:
    """A copy of it; for reading only."""
    return take_backup(original, original.home.with_name("copies"))[0]


@pytest.fixture
def place(copy: Path, tmp_path: Path) -> Iterator[Place]:
    """The copy, restored to a place of the test's own."""
    installation = open_at(tmp_path / "base")
    restore_backup(installation, copy)
    with mlflow_forgets():
        yield Place(installation, tmp_path / "copies")
    installation.close()


def test_a_copy_restored_elsewhere_serves_without_the_original(
    original: Installation, copy: Path, tmp_path: Path
) -> None:
    away = original.home.rename(original.home.with_name("away"))
    try:
        with mlflow_forgets():
            other = open_at(tmp_path / "elsewhere")
            restore_backup(other, copy)
            assert find_problems(other) == ()
            route = get_route(other.store, SERVICE.key)
            assert route is not None
            assert load(other.registry, route.champion).check_examples() == 0.0
            client = other.registry.tracking.client
            shown = client.get_model_version_by_alias(SERVICE.key, "champion")
            assert shown.tags[MODEL_ID_TAG] == route.champion
            (logged,) = client.search_logged_models([other.registry.tracking.experiment_id])
            assert path_of(logged.artifact_location).is_relative_to(other.home)
            assert not paths_named(other.home, original.home)
            other.close()
    finally:
        away.rename(original.home)


def paths_named(home: Path, path: Path) -> list[str]:
    """Rows of both databases that name a path below another one."""
    rows = []
    for file in (home / "store.db", home / "mlruns" / "mlflow.db"):
        with closing(sqlite3.connect(file)) as connection:
            dump = list(connection.iterdump())
        rows += [line for line in dump if f"{path}/" in line]
    return rows


def test_a_copy_is_put_into_the_folder_that_the_tracking_uri_names(
    copy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tracking"
    other = open_at(tmp_path / "other", tracking_uri=folder.as_uri())
    restore_backup(other, copy)
    assert find_problems(other) == ()
    (version,) = list_versions(other.store)
    assert path_of(version.bundle_uri).is_relative_to(folder / "artifacts")
    other.close()


def test_options_in_the_store_url_are_no_part_of_the_path(copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    url = f"sqlite:///{file}?timeout=5"
    other = open_at(tmp_path / "other", store_url=url)
    restore_backup(other, copy)
    assert find_problems(other) == ()
    assert list_versions(other.store)
    other.close()
    with file.open("r+b") as content:
        content.write(b"no database any more")
    assert f"{file} is damaged" in find_problems(open_at(other.home, store_url=url))[0]


def test_where_a_server_keeps_mlflow_bundles_are_put_under_the_base_path(
    copy: Path, tmp_path: Path
) -> None:
    other = open_at(tmp_path / "other", tracking_uri="http://127.0.0.1:9")
    assert "MLflow's database" in restore_backup(other, copy)[0].left_out[-1]
    (version,) = list_versions(other.store)
    assert path_of(version.bundle_uri).is_relative_to(other.home)
    (problem,) = find_problems(other)
    assert "nobody answers at http://127.0.0.1:9" in problem
    other.close()


def test_processes_that_have_the_store_open_see_what_was_restored(place: Place, copy: Path) -> None:
    store = place.installation.store
    assert acquire_lease(store, "controller", "me", seconds=60.0)
    with store.write() as connection:
        connection.exec_driver_sql("DELETE FROM route")
    inode = place.store_file.stat().st_ino
    restore_backup(place.installation, copy)
    assert get_route(store, SERVICE.key) is not None
    assert place.store_file.stat().st_ino == inode
    assert current_holder(store, "controller") is None
    with store.write() as connection:
        connection.exec_driver_sql("DELETE FROM route")


def test_a_copy_has_the_key_for_its_owner_alone_and_says_what_is_not_in_it(copy: Path) -> None:
    contents = read_backup(copy)
    assert (copy / KEYS / "bundle.key").stat().st_mode & 0o777 == 0o600
    assert copy.stat().st_mode & 0o777 == 0o700
    assert "Prefect" in " ".join(contents.left_out)


def test_a_copy_that_failed_leaves_no_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlops.backup.take.write_list", refuse)
    with pytest.raises(BackupError, match="No space left on device"):
        place.take()
    assert list(place.copies.iterdir()) == []


def test_bundles_are_copied_before_registrations_must_wait(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []

    @contextmanager
    def watch(store: Store) -> Iterator[Lease]:
        copied.extend(place.copies.glob("*.part/artifacts/**/golden.safetensors"))
        (place.bundle / SIGNATURE).write_text("changed")
        (place.bundle / "late").write_text("late")
        with exclusive_registration(store) as lease:
            yield lease

    monkeypatch.setattr(take, "exclusive_registration", watch)
    copy = place.take()
    (bundle,) = (path.parent for path in copy.rglob("golden.safetensors"))
    assert len(copied) == 1
    assert (bundle / "late").read_text() == "late"
    assert (bundle / SIGNATURE).read_text() == "changed"


def test_a_copy_whose_lease_was_lost_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def lose(store: Store) -> Iterator[Lease]:
        with exclusive_registration(store) as lease:
            yield replace(lease, term=lease.term - 1)

    monkeypatch.setattr(take, "exclusive_registration", lose)
    with pytest.raises(LeaseLost):
        place.take()
    assert list(place.copies.iterdir()) == []


def test_folders_that_killed_processes_left_are_removed_and_those_at_work_are_not(
    place: Place, copy: Path
) -> None:
    home = place.installation.home
    left = (place.copies / "mlops-20250101T000000Z.part", home / "restore-0.part")
    at_work = (place.copies / "mlops-20250102T000000Z.part", home / "restore-1.part")
    with ExitStack() as stack:
        for folder in at_work:
            stack.enter_context(scratch_folder(folder, "nothing"))
        for folder in left:
            (folder / KEYS).mkdir(parents=True)
        place.take()
        restore_backup(place.installation, copy)
        assert [folder.exists() for folder in (*left, *at_work)] == [False, False, True, True]
    assert not any(folder.exists() for folder in at_work)


@pytest.mark.parametrize("name", [STORE, LIST, f"{KEYS}/bundle.key", ARTIFACTS])
def test_a_copy_that_lost_or_changed_a_file_is_refused(
    copy: Path, tmp_path: Path, name: str
) -> None:
    spoilt, other = tmp_path / "spoilt", open_at(tmp_path / "elsewhere")
    shutil.copytree(copy, spoilt)
    file = next((spoilt / name).rglob("config.json"), spoilt / name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BackupError, match=r"was altered|is no backup"):
        restore_backup(other, spoilt)
    file.unlink()
    with pytest.raises(BackupError, match=r"cannot be read|is no backup"):
        restore_backup(other, spoilt)
    assert not (other.home / "store.db").exists()


def test_bundles_and_key_are_on_disk_before_the_store_names_them(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_at(tmp_path / "elsewhere")
    flushed, before_a_database = set[Path](), list[set[Path]]()
    monkeypatch.setattr(restore, "flush_to_disk", flushed.add)
    monkeypatch.setattr(
        restore, "restore_database", lambda *_: before_a_database.append(set(flushed))
    )
    restore_backup(other, copy)
    artifacts = other.home / "mlruns" / "artifacts"
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    wanted = {path.with_name(f"{path.name}.restored") for path in files}
    wanted |= {artifacts, *(path for path in artifacts.rglob("*") if path.is_dir())}
    assert files
    assert wanted | {key_file(other.home)} <= before_a_database[0]


def test_another_key_is_kept_beside_the_restored_one(
    original: Installation, copy: Path, tmp_path: Path
) -> None:
    other = open_at(tmp_path / "elsewhere")
    foreign = load_or_make_key(key_file(other.home))
    assert restore_backup(other, copy)[1], "processes that run have the foreign key"
    assert not restore_backup(other, copy)[1]
    assert load_key(key_file(other.home)) == load_key(key_file(original.home))
    kept = key_file(other.home).with_name(f"bundle.key.{foreign.fingerprint[:12]}")
    assert load_key(kept) == foreign


@pytest.fixture
def foreign(place: Place) -> SigningKey:
    """The key of the place, which is not the copy's."""
    swap_key(place)
    return load_key(key_file(place.installation.home))


def test_nothing_is_changed_while_a_process_has_a_missing_store_open(
    place: Place, copy: Path, foreign: SigningKey
) -> None:
    bundle = place.bundle
    shutil.rmtree(bundle)
    with place.installation.store.read():
        place.store_file.unlink()
        with pytest.raises(StoreError, match="have it open"):
            restore_backup(place.installation, copy)
    assert load_key(key_file(place.installation.home)) == foreign
    assert not bundle.exists()


@pytest.mark.parametrize("name", ["store.db", "mlruns/mlflow.db"])
def test_nothing_is_changed_while_a_database_is_locked(
    place: Place, copy: Path, foreign: SigningKey, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.store.sqlite_files.PATIENCE_S", 0.1)
    with closing(sqlite3.connect(place.installation.home / name)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=rf"{name} cannot be replaced \(database is locked"):
            restore_backup(place.installation, copy)
    assert load_key(key_file(place.installation.home)) == foreign


def spoil_store(place: Place) -> None:
    place.installation.close()
    with place.store_file.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096 * 4))
    for suffix in ("-wal", "-shm"):
        Path(f"{place.store_file}{suffix}").unlink(missing_ok=True)


def spoil_bundle(place: Place) -> None:
    weights = place.bundle / "golden.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


def swap_key(place: Place) -> None:
    path = key_file(place.installation.home)
    path.unlink()
    load_or_make_key(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_store, "damaged"),
        (spoil_bundle, "golden.safetensors of bundle .* was altered"),
        (lambda place: shutil.rmtree(place.bundle), "there is no bundle"),
        (lambda place: (place.store_file.parent / MLFLOW_FILE).unlink(), "MLflow: there is no"),
        (swap_key, "the store knows"),
    ],
)
def test_a_check_tells_what_is_wrong(
    place: Place, spoil: Callable[[Place], None], words: str
) -> None:
    spoil(place)
    problems = find_problems(open_at(place.installation.home))
    assert any(re.search(words, text) for text in problems), problems


def test_a_check_makes_no_key_and_migrates_nothing(tmp_path: Path) -> None:
    empty = open_at(tmp_path)
    empty.store.close()
    assert find_problems(empty) == ()
    assert not key_file(empty.home).exists()
    old = sqlite3.connect(tmp_path / "store.db")
    with closing(old), old:
        old.execute("UPDATE mlops_schema_version SET version_num = '0009'")
    (problem,) = find_problems(open_at(tmp_path))
    assert "of an older release" in problem
    with closing(sqlite3.connect(tmp_path / "store.db")) as read:
        assert read.execute("SELECT * FROM mlops_schema_version").fetchall() == [("0009",)]


def test_a_copy_without_a_key_says_so(place: Place) -> None:
    key_file(place.installation.home).unlink()
    _, contents = take_backup(place.installation, place.copies)
    assert "the signing key: there is no" in " ".join(contents.left_out)


def test_a_check_tells_when_the_disk_is_nearly_full(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.backup.check.LEAST_FREE_BYTES", 10**18)
    assert "bytes free" in find_problems(place.installation)[0]
