"""Brings a bundle to this machine: once a host, whole or not at all.

A bundle that is kept elsewhere lies in a cache under its digest. Of all processes that want
it one downloads; a killed download leaves nothing that looks like a bundle. MLflow is imported
only when something has to be downloaded.
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
"""So long a process waits for another's download."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

Download = Callable[[str, Path], Path]


def is_local(bundle_uri: str) -> bool:
    """Whether the bundle is read where it lies, without MLflow."""
    return urlparse(bundle_uri).scheme == "file"


def fetch_bundle(uri: str, digest: str, cache: Path, download: Download | None = None) -> Path:
    """The directory of a bundle on this machine.

    A ``file:`` URI is its directory as it lies; anything else is downloaded into
    ``cache/<digest>``, unless it is there and whole. ``download(uri, folder)`` puts it into
    ``folder`` and says where; by default MLflow does.

    Raises:
        BundleError: when it cannot be downloaded, or is not what ``digest`` says.
    """
    if is_local(uri):
        return Path(url2pathname(urlparse(uri).path))
    if not _SHA256.fullmatch(digest):
        raise BundleError(f"{digest!r} is no digest of a bundle; nothing was downloaded")
    kept = cache / digest
    if _is_whole(kept, digest):
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache / f"{digest}.lock", timeout=DOWNLOAD_TIMEOUT_S):
            # Whoever held the lock before may have brought it.
            if not _is_whole(kept, digest):
                _bring(uri, digest, kept, download or _by_mlflow)
    except Timeout as error:
        raise BundleError(
            f"another process has been downloading {uri} for {DOWNLOAD_TIMEOUT_S:g} s; end it, "
            "or wait and try again"
        ) from error
    return kept


def _bring(uri: str, digest: str, kept: Path, download: Download) -> None:
    """Download beside ``kept``, check, rename; the caller holds the lock of the digest."""
    for left in kept.parent.glob(f"{digest}.part*"):
        # Only the holder of the lock makes these, so a killed one left it.
        shutil.rmtree(left)
    part = Path(tempfile.mkdtemp(prefix=f"{digest}.part", dir=kept.parent))
    try:
        found = _downloaded(uri, part, download)
        got = read_manifest(found).digest
        if got != digest:
            raise BundleError(
                f"{uri} holds the bundle {got[:12]}, registered was {digest[:12]}; it was removed "
                "here. Restore it from a copy or register the model again"
            )
        if kept.exists():
            # It is there and not whole: moved first, for nobody may see half of the new one.
            kept.rename(part / "damaged")
        found.rename(kept)
    finally:
        shutil.rmtree(part)


def _downloaded(uri: str, part: Path, download: Download) -> Path:
    try:
        return download(uri, part)
    except Exception as error:
        raise BundleError(
            f"the bundle {uri} cannot be downloaded ({type(error).__name__}: {error}); check that "
            "MLflow and its artifact store can be reached from here"
        ) from error


def _by_mlflow(uri: str, folder: Path) -> Path:
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=os.fspath(folder)))


def _is_whole(directory: Path, digest: str) -> bool:
    try:
        return directory.is_dir() and read_manifest(directory).digest == digest
    except BundleError:
        # Damaged on disk: it is downloaded anew.
        return False
