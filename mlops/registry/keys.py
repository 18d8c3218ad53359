"""The signing key of an installation, compared with the one that its store knows.

The store keeps the fingerprint of the key, written with the first version, or by the first process
whose key opens a champion. A process with another key is refused, and a key is made only where
nothing was registered yet.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mlops.errors import BundleError, KeyMismatch
from mlops.models.manifest import read_manifest
from mlops.models.signing import SigningKey, load_key, load_or_make_key
from mlops.registry.fetching import BundleFolders, fetch_bundle
from mlops.store import Store, get_version, list_routes
from mlops.store.engine import Connection
from mlops.store.identity import read_installation, record_first_key
from mlops.store.versions import has_versions, known_ids

log = logging.getLogger(__name__)


def open_key(store: Store, path: Path, folders: BundleFolders) -> SigningKey:
    """The signing key in this file; it is made where the store has no version yet.

    A store of before, which knows no key, learns the one that signed a champion. Where no champion
    can be read here now, the key is returned, and may not sign yet.

    Args:
        folders: Where this machine has bundles.

    Raises:
        KeyMismatch: when the store knows another key, or the file is missing or open to others.
    """
    if not read_known_keys(store) and not known_ids(store):
        return load_or_make_key(path)
    return choose_signing_key(store, load_key(path), path, folders)


def require_known_key(connection: Connection, key: SigningKey, path: Path) -> tuple[str, ...]:
    """Check the key in the transaction that commits a version; the first one becomes the store's.

    Args:
        path: The key's file.

    Returns:
        The fingerprints that the store knows then.

    Raises:
        KeyMismatch: when the store knows another key, or has versions and knows none.
    """
    if not read_installation(connection).key_fingerprints and has_versions(connection):
        raise KeyMismatch(
            f"signing key {path} could not be compared with a champion's bundle, so it may be "
            "another one than the versions were signed with: run this on a machine that can read "
            "the bundle of a champion, or restore that bundle from a backup"
        )
    known = record_first_key(connection, key.fingerprint)
    choose_known_key(key, known, path)
    return known


def choose_signing_key(
    store: Store, key: SigningKey, path: Path, folders: BundleFolders
) -> SigningKey:
    """The key to sign with now: a rotation may have dropped one since the process started.

    A store of before learns the key here too, where a champion can be read only now.

    Raises:
        KeyMismatch: when the store knows another key, or a champion was signed by another.
    """
    known = read_known_keys(store)
    if not known and _signed_a_champion(key, store, folders):
        with store.write() as connection:
            known = record_first_key(connection, key.fingerprint)
    return choose_known_key(key, known, path) if known else key


def read_known_keys(store: Store) -> tuple[str, ...]:
    """The fingerprints of the keys that the store knows: two in a rotation."""
    with store.read() as connection:
        return read_installation(connection).key_fingerprints


def choose_known_key(key: SigningKey, known: tuple[str, ...], path: Path) -> SigningKey:
    """The secrets of the key that are known.

    Raises:
        KeyMismatch: when none is; it says how to copy the right one.
    """
    chosen = key.of_fingerprints(known)
    if chosen is None:
        raise KeyMismatch(
            f"signing key {path} has the fingerprint {key.fingerprint[:12]}, the store knows "
            f"{', '.join(text[:12] for text in known)}: all machines of a store share one key. "
            "Copy keys/bundle.key from the base path of a machine that serves, with mode 0600: "
            f"install -m 600 bundle.key {path}"
        )
    return chosen


def _signed_a_champion(key: SigningKey, store: Store, folders: BundleFolders) -> bool:
    """Whether the key signed a champion; False where no champion's bundle can be read here.

    Raises:
        KeyMismatch: when a champion was signed by another key.
    """
    for route in list_routes(store):
        version = get_version(store, route.champion)
        try:
            bundle = fetch_bundle(version.bundle_uri, version.digest, folders, key=key)
            key.check(bundle, read_manifest(bundle).digest)
        except KeyMismatch:
            raise
        except BundleError as error:
            log.info("the key is not compared with %s: %s", version.model_id, error)
            continue
        return True
    return False
