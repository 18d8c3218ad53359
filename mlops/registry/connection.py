"""Opens a registry (store, MLflow, base path, signing key) and loads bundles through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mlops.errors import BundleError, RegistryError
from mlops.models.bundle import Bundle, Trust, open_bundle
from mlops.models.signing import load_or_make_key
from mlops.registry.fetching import fetch_bundle
from mlops.registry.tracking import Tracking, connect
from mlops.store import ModelVersion, Store, get_version, open_store

LOCK_TIMEOUT_S = 600.0
BUNDLE_FOLDER = "bundle"


@dataclass(frozen=True, slots=True)
class Registry:
    """An open registry; `open_registry` makes one.

    Args:
        home: The base path, resolved.
        trust: The signing key and the modules whose classes bundles may name.
    """

    store: Store
    tracking: Tracking
    home: Path
    trust: Trust

    @property
    def key_file(self) -> Path:
        return key_file(self.home)

    @property
    def staging(self) -> Path:
        return self.home / "staging"

    @contextmanager
    def lock(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the lock of this base path: one registration or repair at a time.

        It is a lock of the operating system, which a killed process gives up.

        Raises:
            RegistryError: when another process holds it for longer than ``timeout_s``.
        """
        lock = FileLock(self.home / "registry.lock", timeout=timeout_s)
        try:
            lock.acquire()
        except Timeout as error:
            raise RegistryError(
                f"another registration has held {lock.lock_file} for {timeout_s:g} s; "
                "wait for it to end, or end it"
            ) from error
        try:
            yield
        finally:
            lock.release()


def key_file(home: Path) -> Path:
    """Path of an installation's signing key."""
    return home / "keys" / "bundle.key"


def open_registry(
    *,
    base_path: Path,
    store_url: str,
    tracking_uri: str,
    experiment: str,
    custom_modules: tuple[str, ...] = (),
    allow_signed_pickle: bool = False,
) -> Registry:
    """Open store, MLflow experiment and signing key; each is made where it is missing.

    Raises:
        StoreError, RegistryError, BundleError: when one of them cannot be used.
    """
    home = base_path.resolve()
    trust = open_trust(home, custom_modules, allow_signed_pickle=allow_signed_pickle)
    return Registry(
        store=open_store(store_url),
        tracking=connect(tracking_uri, experiment),
        home=home,
        trust=trust,
    )


def open_trust(
    home: Path, custom_modules: tuple[str, ...] = (), *, allow_signed_pickle: bool = False
) -> Trust:
    """What this installation loads; its signing key is made where it is missing."""
    home.mkdir(parents=True, exist_ok=True)
    return Trust(load_or_make_key(key_file(home)), custom_modules, allow_signed_pickle)


def bundle_cache(home: Path) -> Path:
    """Folder of the bundles that were downloaded to this machine."""
    return home / "bundles"


def fetch(bundle_uri: str, digest: str, registry: Registry) -> Path:
    """The bundle's directory on this machine; a remote bundle is downloaded.

    Raises:
        BundleError: as `fetch_bundle`.
    """
    return fetch_bundle(bundle_uri, digest, bundle_cache(registry.home))


def load(registry: Registry, model_id: str) -> Bundle:
    """Open the bundle of a version, and check that it is the registered one.

    Raises:
        VersionNotFound: when there is no such version.
        BundleError: when its files are not those that were registered.
    """
    version = get_version(registry.store, model_id)
    return load_version(version, registry.trust, bundle_cache(registry.home))


def load_version(version: ModelVersion, trust: Trust, cache: Path) -> Bundle:
    """As `load`, of a row of the store.

    Args:
        cache: Folder that remote bundles are downloaded to.

    Raises:
        BundleError: when its files are not those that were registered.
    """
    bundle = open_bundle(fetch_bundle(version.bundle_uri, version.digest, cache), trust)
    if bundle.digest != version.digest:
        raise BundleError(
            f"the bundle of {version.model_id} has digest {bundle.digest[:12]}, registered was "
            f"{version.digest[:12]}; restore {version.bundle_uri} from a copy"
        )
    return bundle
