"""Finds bundles on this machine, or downloads them into a cache: once, whole or not at all.

A bundle of a ``file:`` URI is read in place, where the file system is this installation's on this
machine. A remote one is cached under its digest. Of all processes that need it one downloads it,
under a file lock; a killed download leaves nothing that looks like a bundle. MLflow is imported
only for a download.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mlops.errors import BundleError, BundleUnavailable, KeyMismatch
from mlops.models.manifest import read_manifest
from mlops.models.signing import SigningKey
from mlops.paths import path_of, scheme_of
from mlops.registry.tracking import Location, point_mlflow_to, resolve_tracking_uri

DOWNLOAD_TIMEOUT_S = 600.0
"""How long a process waits for the download by another one."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

Download = Callable[[str, Path], Path]


@dataclass(frozen=True, slots=True)
class BundleFolders:
    """Where this machine has bundles, or puts them.

    Args:
        cache: Folder of the bundles that were downloaded.
        in_place: Folders whose bundles are read where they lie.
        mlflow: What bundles are downloaded through.
    """

    cache: Path
    in_place: tuple[Path, ...]
    mlflow: Location

    def reads_in_place(self, uri: str) -> bool:
        """Whether the URI names a file in one of the folders."""
        if not is_local(uri):
            return False
        path = path_of(uri)
        # A folder inside may be a link to another disk, and a folder itself may be one.
        named = (Path(os.path.normpath(path)), path.resolve())
        return any(name.is_relative_to(folder) for name in named for folder in self.in_place)

    def download(self, uri: str, folder: Path) -> Path:
        """Let MLflow download a bundle into a folder; returns its directory."""
        import mlflow

        point_mlflow_to(self.mlflow)
        path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=os.fspath(folder))
        return Path(path)


def bundle_folders(home: Path, tracking_uri: str) -> BundleFolders:
    """The bundles of an installation: under its base path, or where its MLflow keeps artifacts.

    Args:
        home: The base path.
        tracking_uri: As configured; a server is no folder.
    """
    home, mlflow = home.resolve(), resolve_tracking_uri(tracking_uri)
    artifacts = () if mlflow.artifacts is None else (mlflow.artifacts.parent,)
    return BundleFolders(bundle_cache(home), (home, *artifacts), mlflow)


def bundle_cache(home: Path) -> Path:
    """Folder of the bundles that were downloaded to this machine."""
    return home / "bundles"


def is_local(bundle_uri: str) -> bool:
    """Whether the URI names a directory of some machine, which is read without MLflow."""
    return scheme_of(bundle_uri) == "file"


def fetch_bundle(
    uri: str,
    digest: str,
    folders: BundleFolders,
    download: Download | None = None,
    *,
    key: SigningKey | None = None,
) -> Path:
    """The directory of a bundle on this machine.

    That of a ``file:`` URI is used in place. Any other bundle is downloaded into
    ``cache/<digest>``, unless it is there and whole.

    Args:
        key: A cached bundle that another key signed is downloaded again: a rotation on another
            machine may have signed it since. The caller checks the signature all the same.
        download: Called with the URI and a folder; puts the bundle into the folder and returns
            its directory. By default MLflow downloads.

    Raises:
        BundleUnavailable: when the bundle cannot be downloaded, or lies in no folder of this
            installation on this machine.
        BundleError: when it has another digest.
    """
    if is_local(uri):
        return _find_in_place(uri, folders)
    cache = folders.cache
    if not _SHA256.fullmatch(digest):
        raise BundleError(f"{digest!r} is no digest of a bundle; nothing was downloaded")
    target = cache / digest
    if _is_whole(target, digest, key):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache / f"{digest}.lock", timeout=DOWNLOAD_TIMEOUT_S):
            # The process that held the lock before may have downloaded it.
            if not _is_whole(target, digest, key):
                _download_whole(uri, digest, target, download or folders.download)
    except Timeout as error:
        raise BundleUnavailable(
            f"another process has been downloading {uri} for {DOWNLOAD_TIMEOUT_S:g} s; end it, "
            "or wait and try again"
        ) from error
    return target


def _find_in_place(uri: str, folders: BundleFolders) -> Path:
    if not folders.reads_in_place(uri):
        raise BundleUnavailable(
            f"the bundle {uri} lies neither under this machine's MLOPS_BASE_PATH nor in the folder "
            f"of its MLFLOW_TRACKING_URI ({', '.join(map(str, folders.in_place))}); where several "
            "machines share a store, let an MLflow server keep the bundles: start one with `mlflow "
            "server --serve-artifacts`, set MLFLOW_TRACKING_URI=http://<host>:5000 on every "
            "machine, and train or register there again"
        )
    path = path_of(uri)
    if not path.is_dir():
        raise BundleUnavailable(
            f"there is no bundle at {uri} now; mount its disk, or restore it from a backup"
        )
    return path


def _download_whole(uri: str, digest: str, target: Path, download: Download) -> None:
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
            # It is damaged, or signed by another key. A rename needs a free name.
            target.rename(part / "replaced")
        bundle.rename(target)
    finally:
        shutil.rmtree(part)


def _download_into(folder: Path, uri: str, download: Download) -> Path:
    try:
        return download(uri, folder)
    except Exception as error:
        raise BundleUnavailable(
            f"the bundle {uri} cannot be downloaded ({type(error).__name__}: {error}); check that "
            "MLflow and its artifact store can be reached from here"
        ) from error


def _is_whole(directory: Path, digest: str, key: SigningKey | None) -> bool:
    try:
        if not directory.is_dir() or read_manifest(directory).digest != digest:
            return False
        if key is not None:
            key.check(directory, digest)
    except KeyMismatch:
        # It may be signed by an old key, and is downloaded again.
        return False
    except BundleUnavailable:
        raise
    except BundleError:
        # It is damaged on disk, and is downloaded again.
        return False
    return True
