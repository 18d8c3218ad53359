"""A store knows its signing key: a process with another one is refused, and changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlops.errors import BundleError, KeyMismatch, RegistryError
from mlops.models.bundle import Trust, open_bundle
from mlops.models.manifest import read_manifest
from mlops.models.signing import SigningKey, load_key, load_or_make_key, next_key_file
from mlops.registry import BundleFolders, Registry, bundle_folders, ensure_service, open_trust
from mlops.registry.connection import key_file
from mlops.registry.fetching import fetch_bundle
from mlops.registry.key_rotation import add_next_key, drop_old_key
from mlops.registry.keys import choose_signing_key, read_known_keys, require_known_key
from mlops.store import ModelVersion, Store, Why
from mlops.store.identity import write_key_fingerprints
from mlops.store.routes import begin_route
from mlops.store.schema import version
from tests.conftest import mlflow_forgets
from tests.mlops.registry.conftest import AT, SERVICE
from tests.stores import add, store, url  # noqa: F401


@dataclass(frozen=True)
class Machine:
    """A base path beside the store; the folder of bundles is shared."""

    store: Store
    home: Path
    shared: Path

    @property
    def bundles(self) -> BundleFolders:
        return bundle_folders(self.home, self.shared.as_uri())

    @property
    def key_file(self) -> Path:
        return key_file(self.home)

    @property
    def trust(self) -> Trust:
        return open_trust(self.store, self.home, self.bundles)

    @property
    def key(self) -> SigningKey:
        key = self.trust.key
        assert key is not None
        return key

    @property
    def registry(self) -> Registry:
        return Registry(self.store, cast(Any, None), self.home, self.trust, self.bundles)

    def add_next(self) -> Path:
        return add_next_key(self.store, self.key_file, self.bundles)

    def copy_keys_from(self, other: Machine) -> None:
        shutil.rmtree(self.key_file.parent, ignore_errors=True)
        shutil.copytree(other.key_file.parent, self.key_file.parent)


@pytest.fixture
def first(store: Store, add: Callable[..., ModelVersion], written: Path) -> Machine:  # noqa: F811
    """The machine that registered the champion, in a store that knows no key yet."""
    row = add(
        service=SERVICE.key, bundle_uri=written.as_uri(), digest=read_manifest(written).digest
    )
    with store.write() as connection:
        begin_route(connection, SERVICE.key, row.model_id, Why(AT))
    return Machine(store, written.parent, written.parent)


@pytest.fixture
def second(first: Machine, tmp_path: Path) -> Machine:
    return Machine(first.store, tmp_path / "second", first.home)


@pytest.mark.usefixtures("unverified")
def test_the_first_registration_writes_the_fingerprint_of_its_key(
    registry: Registry, dataset: Any
) -> None:
    assert read_known_keys(registry.store) == ()
    ensure_service(registry, SERVICE, dataset, Why(AT))
    assert read_known_keys(registry.store) == (load_key(registry.key_file).fingerprint,)


def test_a_store_of_before_learns_the_key_that_signed_its_champion(first: Machine) -> None:
    assert first.key == load_key(first.key_file)
    assert read_known_keys(first.store) == (first.key.fingerprint,)


@pytest.mark.parametrize("knows", [True, False])
def test_a_machine_without_the_key_makes_none(first: Machine, second: Machine, knows: bool) -> None:
    if knows:
        assert first.key
    with pytest.raises(KeyMismatch, match=r"mode 0600: install -m 600 bundle\.key .*second/keys"):
        second.trust  # noqa: B018
    assert not second.key_file.exists()


@pytest.mark.parametrize("knows", [True, False])
def test_a_foreign_key_is_refused(first: Machine, second: Machine, knows: bool) -> None:
    if knows:
        assert first.key
    load_or_make_key(second.key_file)
    with pytest.raises(KeyMismatch, match=r"the store knows|not signed with"):
        second.trust  # noqa: B018
    assert read_known_keys(second.store) == ((first.key.fingerprint,) if knows else ())


def test_a_key_is_not_claimed_while_no_champion_can_be_read(first: Machine, written: Path) -> None:
    written.rename(written.with_name("away"))
    assert first.key
    assert read_known_keys(first.store) == ()


def test_a_key_that_no_champion_shows_to_be_right_neither_commits_nor_is_rotated(
    first: Machine, second: Machine, written: Path
) -> None:
    load_or_make_key(second.key_file)
    away = written.rename(written.with_name("away"))
    foreign = second.key
    with (
        pytest.raises(KeyMismatch, match="could not be compared with a champion's bundle"),
        second.store.write() as connection,
    ):
        require_known_key(connection, foreign, second.key_file)
    with pytest.raises(KeyMismatch, match="restore that bundle from a backup"):
        second.add_next()
    assert not next_key_file(second.key_file).exists()
    assert read_known_keys(first.store) == ()

    right = first.key
    away.rename(written)
    with pytest.raises(KeyMismatch, match="not signed with"):
        choose_signing_key(second.store, foreign, second.key_file, second.bundles)
    assert choose_signing_key(first.store, right, first.key_file, first.bundles) == right
    assert read_known_keys(first.store) == (right.fingerprint,)


def test_a_commit_under_a_foreign_key_is_refused(first: Machine) -> None:
    assert first.key
    with pytest.raises(KeyMismatch, match="the store knows"), first.store.write() as connection:
        require_known_key(connection, SigningKey(b"x" * 32), first.key_file)


def test_a_rotation_ends_with_every_bundle_signed_by_the_next_key(
    first: Machine, second: Machine, written: Path
) -> None:
    old = first.key
    first.add_next()
    assert first.add_next() == next_key_file(first.key_file), "a second call changes nothing"
    assert first.key.secret == old.secret, "the old key signs until the rotation ends"
    second.copy_keys_from(first)
    running = second.key
    open_bundle(written, second.trust)

    assert drop_old_key(first.registry) == ()
    new = first.key
    assert read_known_keys(first.store) == (new.fingerprint,) != (old.fingerprint,)
    open_bundle(written, Trust(new))
    with pytest.raises(KeyMismatch):
        open_bundle(written, Trust(old))
    open_bundle(written, Trust(running))
    assert choose_signing_key(first.store, running, second.key_file, second.bundles) == new

    assert second.key == new, "a process that restarts before its machine drops the old key"
    assert drop_old_key(second.registry) == ()
    assert load_key(second.key_file) == new
    with pytest.raises(RegistryError, match="there is no"):
        drop_old_key(second.registry)


def test_a_bundle_that_is_fetched_is_signed_where_it_comes_from_and_in_the_cache(
    first: Machine, written: Path
) -> None:
    with first.store.write() as connection:
        connection.execute(version.update().values(bundle_uri=str(written)))
    with mlflow_forgets():
        assert first.key
        first.add_next()
        assert drop_old_key(first.registry) == ()
    for bundle in (written, first.bundles.cache / read_manifest(written).digest):
        open_bundle(bundle, Trust(first.key))


def test_a_cached_bundle_that_was_signed_again_elsewhere_is_fetched_again(
    first: Machine, second: Machine, written: Path
) -> None:
    with first.store.write() as connection:
        connection.execute(version.update().values(bundle_uri=str(written)))
    digest = read_manifest(written).digest
    with mlflow_forgets():
        assert first.key
        first.add_next()
        second.copy_keys_from(first)
        cached = fetch_bundle(str(written), digest, second.bundles, key=second.key)
        assert drop_old_key(first.registry) == ()
        with pytest.raises(KeyMismatch):
            open_bundle(cached, second.trust)
        assert fetch_bundle(str(written), digest, second.bundles, key=second.key) == cached
        open_bundle(cached, second.trust)
        assert drop_old_key(second.registry) == ()


@pytest.mark.parametrize("by", ["MLflow", "the disk"])
def test_a_signature_that_cannot_be_written_is_one_line(
    first: Machine, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    from mlflow.exceptions import MlflowException

    assert first.key
    first.add_next()

    def refuse(*_: object) -> None:
        raise MlflowException("no answer") if by == "MLflow" else OSError(28, "No space left")

    monkeypatch.setattr(SigningKey, "write", refuse)
    registry = replace(first.registry, tracking=cast(Any, SimpleNamespace(uri="http://mlflow")))
    with pytest.raises(RegistryError, match=r"does not answer as it should|cannot be written to"):
        drop_old_key(registry)
    assert len(read_known_keys(first.store)) == 2


def test_a_rotation_does_not_end_while_a_live_bundle_cannot_be_signed(
    first: Machine, written: Path
) -> None:
    old = first.key
    first.add_next()
    written.rename(written.with_name("away"))
    with pytest.raises(BundleError, match="there is no bundle"):
        drop_old_key(first.registry)
    written.with_name("away").rename(written)
    assert len(read_known_keys(first.store)) == 2
    open_bundle(written, Trust(old))


def test_only_one_machine_begins_a_rotation(first: Machine, second: Machine) -> None:
    assert first.key
    second.copy_keys_from(first)
    first.add_next()
    with pytest.raises(RegistryError, match="began on another machine"):
        second.add_next()
    assert second.key == SigningKey(first.key.secret)


def test_a_key_that_the_store_dropped_is_refused(first: Machine, second: Machine) -> None:
    assert first.key
    second.copy_keys_from(first)
    with first.store.write() as connection:
        write_key_fingerprints(connection, (SigningKey(b"n" * 32).fingerprint,))
    with pytest.raises(KeyMismatch, match="all machines of a store share one key"):
        second.trust  # noqa: B018
