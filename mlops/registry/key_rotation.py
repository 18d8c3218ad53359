"""The rotation of the signing key.

    add_next_key -> copy it to each machine, restart its processes -> drop_old_key on each machine

From the first step to the last a bundle may be signed by either key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlops.errors import BundleError, RegistryError
from mlops.models.manifest import SIGNATURE, read_manifest
from mlops.models.signing import (
    SigningKey,
    load_key,
    make_key_file,
    next_key_file,
    read_secret,
)
from mlops.registry.connection import Registry, fetch
from mlops.registry.fetching import BundleFolders, is_local
from mlops.registry.keys import choose_known_key, open_key, read_known_keys, require_known_key
from mlops.registry.ownership import exclusive_registration
from mlops.registry.tracking import as_registry_errors
from mlops.store import ModelVersion, Store, list_routes, list_versions
from mlops.store.identity import write_key_fingerprints


def add_next_key(store: Store, path: Path, folders: BundleFolders) -> Path:
    """Begin a rotation: make the next key and let the store know it; returns its file.

    Args:
        path: The current key's file.
        folders: Where this machine has bundles.

    Raises:
        RegistryError: when a rotation that began elsewhere is under way.
        KeyMismatch: when the store knows another key, or no champion could be compared with it.
    """
    key = open_key(store, path, folders)
    with store.write() as connection:
        require_known_key(connection, key, path)
    following = next_key_file(path)
    make_key_file(following)
    fingerprint = SigningKey(read_secret(following)).fingerprint
    with store.write() as connection:
        known = require_known_key(connection, key, path)
        if len(known) > 1 and fingerprint not in known:
            following.unlink()
            raise RegistryError(
                "a rotation that began on another machine is under way; copy its "
                f"{following.name} to {following.parent}, or end it there by dropping the old key"
            )
        write_key_fingerprints(connection, tuple(dict.fromkeys((*known, fingerprint))))
    return following


def drop_old_key(registry: Registry) -> tuple[str, ...]:
    """End a rotation on this machine: all bundles are signed by the next key, which takes over.

    Returns:
        The versions whose bundles could not be read, and which no service serves.

    Raises:
        RegistryError: when there is no next key here, or a signature cannot be written.
        BundleError: when the bundle of a version that serves cannot be read; nothing was dropped.
    """
    following = next_key_file(registry.key_file)
    if not following.exists():
        raise RegistryError(
            f"there is no {following}; begin a rotation with `python -m deployments.keys add`, "
            "or copy that file from the machine where it began"
        )
    key = SigningKey(read_secret(following))
    with exclusive_registration(registry.store):
        choose_known_key(key, read_known_keys(registry.store), following)
        unsigned = _sign_all(registry, key)
        with registry.store.write() as connection:
            write_key_fingerprints(connection, (key.fingerprint,))
        following.replace(registry.key_file)
    return unsigned


def _sign_all(registry: Registry, key: SigningKey) -> tuple[str, ...]:
    unsigned = []
    serving = {
        model_id
        for route in list_routes(registry.store)
        for model_id in (route.champion, route.challenger, route.previous_champion, route.baseline)
    }
    either = load_key(registry.key_file)
    for version in list_versions(registry.store):
        if version.bundle_removed_at is not None:
            continue
        try:
            _sign_again(version, registry, key, either)
        except BundleError:
            if version.model_id in serving:
                raise
            unsigned.append(version.model_id)
    return tuple(unsigned)


def _sign_again(
    version: ModelVersion, registry: Registry, key: SigningKey, either: SigningKey
) -> None:
    bundle = fetch(version.bundle_uri, version.digest, registry)
    digest = read_manifest(bundle).digest
    either.check(bundle, digest)
    with _naming_write_errors(version), as_registry_errors(registry.tracking):
        key.write(bundle, digest)
        if not is_local(version.bundle_uri):
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            artifacts: Any = get_artifact_repository(version.bundle_uri)
            artifacts.log_artifact(str(bundle / SIGNATURE))


@contextmanager
def _naming_write_errors(version: ModelVersion) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"the signature of {version.model_id} cannot be written to {version.bundle_uri} "
            f"({error}); the old key was not dropped. Check that the place can be reached and "
            "written, then drop again"
        ) from error
