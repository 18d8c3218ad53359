"""Opens a registry (store, MLflow, base path, signing key) and loads bundles through it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlops.errors import BundleError
from mlops.models.bundle import Bundle, Trust, open_bundle
from mlops.registry.fetching import BundleFolders, bundle_folders, fetch_bundle
from mlops.registry.keys import open_key
from mlops.registry.tracking import Tracking, connect
from mlops.store import ModelVersion, Store, get_version, open_store

BUNDLE_FOLDER = "bundle"


@dataclass(frozen=True, slots=True)
class Registry:
    """An open registry; `open_registry` makes one.

    Args:
        home: The base path, resolved.
        trust: The signing key and the modules whose classes bundles may name.
        bundles: Where this machine has bundles.
    """

    store: Store
    tracking: Tracking
    home: Path
    trust: Trust
    bundles: BundleFolders

    @property
    def key_file(self) -> Path:
        return key_file(self.home)

    @property
    def staging(self) -> Path:
        return self.home / "staging"

    def staging_of(self, installation: str) -> Path:
        """Where an installation stages what it registers; two may have one base path."""
        return self.staging / installation


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
    """Open store, MLflow experiment and signing key; each is made where there is none yet.

    Raises:
        StoreError, RegistryError, BundleError: when one of them cannot be used.
    """
    home = base_path.resolve()
    store, bundles = open_store(store_url), bundle_folders(home, tracking_uri)
    trust = open_trust(
        store, home, bundles, custom_modules, allow_signed_pickle=allow_signed_pickle
    )
    return Registry(
        store=store,
        tracking=connect(tracking_uri, experiment),
        home=home,
        trust=trust,
        bundles=bundles,
    )


def open_trust(
    store: Store,
    home: Path,
    folders: BundleFolders,
    custom_modules: tuple[str, ...] = (),
    *,
    allow_signed_pickle: bool = False,
) -> Trust:
    """What this installation loads; its signing key is made where nothing was registered yet.

    Raises:
        KeyMismatch: when the store knows another key; the message says how to copy it.
    """
    home.mkdir(parents=True, exist_ok=True)
    key = open_key(store, key_file(home), folders)
    return Trust(key, custom_modules, allow_signed_pickle)


def fetch(bundle_uri: str, digest: str, registry: Registry) -> Path:
    """The bundle's directory on this machine; a remote bundle is downloaded.

    Raises:
        BundleError: as `fetch_bundle`.
    """
    return fetch_bundle(bundle_uri, digest, registry.bundles, key=registry.trust.key)


def load(registry: Registry, model_id: str) -> Bundle:
    """Open the bundle of a version, and check that it is the registered one.

    Raises:
        VersionNotFound: when there is no such version.
        BundleError: when its files are not those that were registered.
    """
    version = get_version(registry.store, model_id)
    return load_version(version, registry.trust, registry.bundles)


def load_version(version: ModelVersion, trust: Trust, folders: BundleFolders) -> Bundle:
    """As `load`, of a row of the store.

    Raises:
        BundleError: when its files are not those that were registered, or were removed.
    """
    if version.bundle_removed_at is not None:
        raise BundleError(
            f"the bundle of {version.model_id} was removed on "
            f"{version.bundle_removed_at:%Y-%m-%d}, BUNDLE_DAYS after the version's last change; "
            "train its recipe again"
        )
    path = fetch_bundle(version.bundle_uri, version.digest, folders, key=trust.key)
    bundle = open_bundle(path, trust)
    if bundle.digest != version.digest:
        raise BundleError(
            f"the bundle of {version.model_id} has digest {bundle.digest[:12]}, registered was "
            f"{version.digest[:12]}; restore {version.bundle_uri} from a copy"
        )
    return bundle
