"""Everything a registry call needs: the store, MLflow, the base path, and what is trusted."""

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
    """An open registry; get one from `open_registry`."""

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
        """One registration or repair at a time on this base path; a killed holder frees it.

        Raises:
            RegistryError: when another holds it for longer than ``timeout_s``.
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
    """Where an installation keeps its signing key."""
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
    """Open store, MLflow and signing key, each made on first use.

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
    """What this installation loads; its signing key is made on first use."""
    home.mkdir(parents=True, exist_ok=True)
    return Trust(load_or_make_key(key_file(home)), custom_modules, allow_signed_pickle)


def bundle_cache(home: Path) -> Path:
    """Where bundles lie that were downloaded to this machine."""
    return home / "bundles"


def fetch(bundle_uri: str, digest: str, registry: Registry) -> Path:
    """The bundle's directory on this machine, downloaded where it is kept elsewhere.

    Raises:
        BundleError: as `fetch_bundle`.
    """
    return fetch_bundle(bundle_uri, digest, bundle_cache(registry.home))


def load(registry: Registry, model_id: str) -> Bundle:
    """Open a registered version's bundle, the very one that was registered.

    Raises:
        VersionNotFound: when there is no such version.
        BundleError: when its files are not what was registered.
    """
    version = get_version(registry.store, model_id)
    return load_version(version, registry.trust, bundle_cache(registry.home))


def load_version(version: ModelVersion, trust: Trust, cache: Path) -> Bundle:
    """As `load`, of a row of the store; ``cache`` is for bundles that lie elsewhere.

    Raises:
        BundleError: when its files are not what was registered.
    """
    bundle = open_bundle(fetch_bundle(version.bundle_uri, version.digest, cache), trust)
    if bundle.digest != version.digest:
        raise BundleError(
            f"the bundle of {version.model_id} has digest {bundle.digest[:12]}, registered was "
            f"{version.digest[:12]}; restore {version.bundle_uri} from a copy"
        )
    return bundle
