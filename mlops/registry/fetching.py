"""Downloads bundles into a cache: once on each host, whole or not at all.

A remote bundle is cached under its digest. Of all processes that need it one downloads it, under a
file lock; a killed download leaves nothing that looks like a bundle. MLflow is imported only for a
download.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from mlops.errors import BundleError
from mlops.models.manifest import read_manifest

DOWNLOAD_TIMEOUT_S = 600.0
"""How long a process waits for the download by another one."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

Download = Callable[[str, Path], Path]


def is_local(bundle_uri: str) -> bool:
    """Whether the bundle is a directory of this machine, which is read without MLflow."""
    return urlparse(bundle_uri).scheme == "file"


def fetch_bundle(uri: str, digest: str, cache: Path, download: Download | None = None) -> Path:
    """The directory of a bundle on this machine.

    That of a ``file:`` URI is used in place. Any other bundle is downloaded into
    ``cache/<digest>``, unless it is there and whole.

    Args:
        download: Called with the URI and a folder; puts the bundle into the folder and returns
            its directory. By default MLflow downloads.

    Raises:
        BundleError: when the bundle cannot be downloaded or has another digest.
    """
    if is_local(uri):
        return Path(url2pathname(urlparse(uri).path))
    if not _SHA256.fullmatch(digest):
        raise BundleError(f"{digest!r} is no digest of a bundle; nothing was downloaded")
    target = cache / digest
    if _is_whole(target, digest):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache / f"{digest}.lock", timeout=DOWNLOAD_TIMEOUT_S):
            # The process that held the lock before may have downloaded it.
            if not _is_whole(target, digest):
                _download_whole(uri, digest, target, download)
    except Timeout as error:
        raise BundleError(
            f"another process has been downloading {uri} for {DOWNLOAD_TIMEOUT_S:g} s; end it, "
            "or wait and try again"
        ) from error
    return target


def _download_whole(uri: str, digest: str, target: Path, download: Download | None) -> None:
    """Download beside ``target``, check, rename; the caller holds the lock of the digest."""
    for abandoned in target.parent.glob(f"{digest}.part*"):
        # Only the holder of the lock makes such a folder, so this one is of a killed process.
        shutil.rmtree(abandoned)
    part = Path(tempfile.mkdtemp(prefix=f"{digest}.part", dir=target.parent))
    try:
        bundle = _download_into(part, uri, download)
        got = read_manifest(bundle).digest
        if got != digest:
            raise BundleError(
                f"{uri} holds the bundle {got[:12]}, registered was {digest[:12]}; it was removed "
                "here. Restore it from a copy or register the model again"
            )
        if target.exists():
            # It is damaged: moved away first, because a rename needs a free name.
            target.rename(part / "damaged")
        bundle.rename(target)
    finally:
        shutil.rmtree(part)


def _download_into(folder: Path, uri: str, download: Download | None) -> Path:
    try:
        if download is not None:
            return download(uri, folder)
        import mlflow

        path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=os.fspath(folder))
        return Path(path)
    except Exception as error:
        raise BundleError(
            f"the bundle {uri} cannot be downloaded ({type(error).__name__}: {error}); check that "
            "MLflow and its artifact store can be reached from here"
        ) from error


def _is_whole(directory: Path, digest: str) -> bool:
    try:
        return directory.is_dir() and read_manifest(directory).digest == digest
    except BundleError:
        # It is damaged on disk, and is downloaded again.
        return False
