"""A bundle comes to a machine once, whole, and only as what was registered."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlops.errors import BundleError, BundleUnavailable
from mlops.models.manifest import WEIGHTS, read_manifest
from mlops.registry import Candidate, Registry, register
from mlops.registry.fetching import BundleFolders, bundle_folders, fetch_bundle
from mlops.store import Why
from tests.conftest import mlflow_forgets
from tests.zygote import Process, Zygote

from .conftest import AT

URI = "mlflow-artifacts:/1/abc/artifacts/bundle"


class Copies:
    """Downloads by copying a bundle, and counts in a file that all processes share."""

    def __init__(self, source: Path, counter: Path) -> None:
        self.source = source
        self.counter = counter

    def __call__(self, uri: str, folder: Path) -> Path:
        with self.counter.open("a") as file:
            file.write("one\n")
        return Path(shutil.copytree(self.source, folder / "bundle"))

    @property
    def count(self) -> int:
        return len(self.counter.read_text().splitlines()) if self.counter.exists() else 0


class Killed(Copies):
    """Is killed when half of the files are there."""

    def __call__(self, uri: str, folder: Path) -> Path:
        (folder / "bundle").mkdir()
        shutil.copy(self.source / WEIGHTS, folder / "bundle" / WEIGHTS)
        os.kill(os.getpid(), signal.SIGKILL)
        return folder


@pytest.fixture
def digest(written: Path) -> str:
    return read_manifest(written).digest


SERVER = "http://ann:secret@127.0.0.1:5000"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The base path of a machine that has nothing of its own yet."""
    return tmp_path / "home"


@pytest.fixture
def folders(home: Path) -> BundleFolders:
    return bundle_folders(home, SERVER)


@pytest.fixture
def cache(folders: BundleFolders) -> Path:
    return folders.cache


@pytest.fixture
def copies(written: Path, tmp_path: Path) -> Copies:
    return Copies(written, tmp_path / "downloads")


@pytest.mark.parametrize("named_by", ["base path", "MLFLOW_TRACKING_URI", "a link"])
def test_a_bundle_of_this_installation_is_read_where_it_lies(
    written: Path, digest: str, home: Path, tmp_path: Path, named_by: str
) -> None:
    place = written
    if named_by == "base path":
        folders = bundle_folders(written.parent, SERVER)
    elif named_by == "MLFLOW_TRACKING_URI":
        folders = bundle_folders(home, written.parent.as_uri())
    else:
        home.mkdir()
        (home / "disk").symlink_to(written.parent)
        folders, place = bundle_folders(home, SERVER), home / "disk" / written.name
    assert fetch_bundle(place.as_uri(), digest, folders) == place
    assert not folders.cache.exists()


@pytest.mark.parametrize("uri", ["{}", "file://{home}/../bundle"])
def test_a_bundle_of_another_machine_is_refused_with_advice(
    written: Path, digest: str, home: Path, folders: BundleFolders, uri: str
) -> None:
    """Though its path leads somewhere here: on one host both machines' folders are there."""
    elsewhere = uri.format(written.as_uri(), home=home)
    advice = r"--serve-artifacts`, set MLFLOW_TRACKING_URI=http://<host>:5000 on every machine"
    with pytest.raises(BundleUnavailable, match=f"neither under .* MLOPS_BASE_PATH.*{advice}"):
        fetch_bundle(elsewhere, digest, folders)


def test_a_bundle_whose_disk_is_away_says_nothing_of_the_version(
    digest: str, home: Path, folders: BundleFolders
) -> None:
    with pytest.raises(BundleUnavailable, match=r"there is no bundle at .* mount its disk"):
        fetch_bundle((home / "away").as_uri(), digest, folders)


def test_a_bundle_from_elsewhere_is_downloaded_once(
    digest: str, folders: BundleFolders, cache: Path, copies: Copies
) -> None:
    found = {fetch_bundle(URI, digest, folders, copies) for _ in range(3)}
    assert found == {cache / digest}
    assert read_manifest(cache / digest).digest == digest
    assert copies.count == 1


def fetch_by(kind: str, digest: str, home: str, source: str, counter: str) -> None:
    """Fetch in a process of its own and print the folder."""
    download = {"Copies": Copies, "Killed": Killed}[kind](Path(source), Path(counter))
    print(fetch_bundle(URI, digest, bundle_folders(Path(home), SERVER), download))


Fetch = Callable[[str, str], Process]


@pytest.fixture
def start_fetch(zygote: Zygote, digest: str, home: Path, copies: Copies, tmp_path: Path) -> Fetch:
    """Starts a process that fetches by a kind of download and writes to the log of its name."""

    def start(kind: str, who: str) -> Process:
        asked = (kind, digest, str(home), str(copies.source), str(copies.counter))
        return zygote.spawn(fetch_by, *asked, log=tmp_path / f"{who}.log", who=who)

    return start


def test_of_many_processes_one_downloads(
    digest: str, cache: Path, copies: Copies, start_fetch: Fetch
) -> None:
    processes = [start_fetch("Copies", f"process {number}") for number in range(8)]
    assert {process.output().strip() for process in processes} == {str(cache / digest)}
    assert copies.count == 1


def test_a_killed_download_leaves_nothing_half(
    digest: str, folders: BundleFolders, cache: Path, copies: Copies, start_fetch: Fetch
) -> None:
    assert start_fetch("Killed", "killed").wait() == -signal.SIGKILL
    assert not (cache / digest).exists()
    assert fetch_bundle(URI, digest, folders, copies) == cache / digest
    assert {path.name for path in cache.iterdir()} == {digest, f"{digest}.lock"}


def test_another_bundle_than_registered_is_refused_and_removed(
    folders: BundleFolders, cache: Path, copies: Copies
) -> None:
    other = "0" * 64
    with pytest.raises(BundleError, match="registered was 000000000000"):
        fetch_bundle(URI, other, folders, copies)
    assert [path.name for path in cache.iterdir()] == [f"{other}.lock"]


def test_a_bundle_damaged_in_the_cache_is_downloaded_anew(
    digest: str, folders: BundleFolders, copies: Copies
) -> None:
    (fetch_bundle(URI, digest, folders, copies) / WEIGHTS).write_bytes(b"rotten")
    assert read_manifest(fetch_bundle(URI, digest, folders, copies)).digest == digest
    assert copies.count == 2


def test_a_download_that_fails_says_what_was_asked(digest: str, folders: BundleFolders) -> None:
    def away(uri: str, folder: Path) -> Path:
        raise ConnectionError("no route to host")

    with pytest.raises(BundleUnavailable, match=rf"{URI} cannot be downloaded .*no route to host"):
        fetch_bundle(URI, digest, folders, away)


def test_a_digest_that_is_none_names_no_file(folders: BundleFolders, copies: Copies) -> None:
    with pytest.raises(BundleError, match="is no digest"):
        fetch_bundle(URI, "../../etc", folders, copies)
    assert copies.count == 0


def test_mlflow_downloads_what_lies_elsewhere(
    digest: str,
    folders: BundleFolders,
    cache: Path,
    copies: Copies,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def download_artifacts(*, artifact_uri: str, dst_path: str) -> str:
        told.append(os.environ["MLFLOW_TRACKING_PASSWORD"])
        return str(copies(artifact_uri, Path(dst_path)))

    mlflow = SimpleNamespace(
        artifacts=SimpleNamespace(download_artifacts=download_artifacts),
        get_tracking_uri=lambda: "",
        set_tracking_uri=told.append,
        set_registry_uri=told.append,
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    with mlflow_forgets():
        assert fetch_bundle(URI, digest, folders) == cache / digest
        assert told == [*["http://127.0.0.1:5000"] * 2, "secret"]


def test_mlflow_itself_brings_what_is_no_files_uri(
    registry: Registry, candidate: Candidate, unverified: None
) -> None:
    version = register(registry, candidate, Why(AT))
    uri = f"models:/{version.service}/{version.mlflow_version}/data/bundle"
    assert read_manifest(fetch_bundle(uri, version.digest, registry.bundles)).digest == (
        version.digest
    )
