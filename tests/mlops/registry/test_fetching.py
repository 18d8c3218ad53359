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

from mlops.errors import BundleError
from mlops.models.manifest import WEIGHTS, read_manifest
from mlops.registry import Candidate, Registry, register
from mlops.registry.fetching import fetch_bundle
from mlops.store import Why
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


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def copies(written: Path, tmp_path: Path) -> Copies:
    return Copies(written, tmp_path / "downloads")


def test_a_bundle_on_this_machine_is_read_where_it_lies(
    written: Path, digest: str, cache: Path
) -> None:
    assert fetch_bundle(written.as_uri(), digest, cache) == written
    assert not cache.exists()


def test_a_bundle_from_elsewhere_is_downloaded_once(
    digest: str, cache: Path, copies: Copies
) -> None:
    found = {fetch_bundle(URI, digest, cache, copies) for _ in range(3)}
    assert found == {cache / digest}
    assert read_manifest(cache / digest).digest == digest
    assert copies.count == 1


def fetch_by(kind: str, digest: str, cache: str, source: str, counter: str) -> None:
    """Fetch in a process of its own and print the folder."""
    download = {"Copies": Copies, "Killed": Killed}[kind](Path(source), Path(counter))
    print(fetch_bundle(URI, digest, Path(cache), download))


Fetch = Callable[[str, str], Process]


@pytest.fixture
def start_fetch(zygote: Zygote, digest: str, cache: Path, copies: Copies, tmp_path: Path) -> Fetch:
    """Starts a process that fetches by a kind of download and writes to the log of its name."""

    def start(kind: str, who: str) -> Process:
        asked = (kind, digest, str(cache), str(copies.source), str(copies.counter))
        return zygote.spawn(fetch_by, *asked, log=tmp_path / f"{who}.log", who=who)

    return start


def test_of_many_processes_one_downloads(
    digest: str, cache: Path, copies: Copies, start_fetch: Fetch
) -> None:
    processes = [start_fetch("Copies", f"process {number}") for number in range(8)]
    assert {process.output().strip() for process in processes} == {str(cache / digest)}
    assert copies.count == 1


def test_a_killed_download_leaves_nothing_half(
    digest: str, cache: Path, copies: Copies, start_fetch: Fetch
) -> None:
    assert start_fetch("Killed", "killed").wait() == -signal.SIGKILL
    assert not (cache / digest).exists()
    assert fetch_bundle(URI, digest, cache, copies) == cache / digest
    assert {path.name for path in cache.iterdir()} == {digest, f"{digest}.lock"}


def test_another_bundle_than_registered_is_refused_and_removed(cache: Path, copies: Copies) -> None:
    other = "0" * 64
    with pytest.raises(BundleError, match="registered was 000000000000"):
        fetch_bundle(URI, other, cache, copies)
    assert [path.name for path in cache.iterdir()] == [f"{other}.lock"]


def test_a_bundle_damaged_in_the_cache_is_downloaded_anew(
    digest: str, cache: Path, copies: Copies
) -> None:
    (fetch_bundle(URI, digest, cache, copies) / WEIGHTS).write_bytes(b"rotten")
    assert read_manifest(fetch_bundle(URI, digest, cache, copies)).digest == digest
    assert copies.count == 2


def test_a_download_that_fails_says_what_was_asked(digest: str, cache: Path) -> None:
    def away(uri: str, folder: Path) -> Path:
        raise ConnectionError("no route to host")

    with pytest.raises(BundleError, match=rf"{URI} cannot be downloaded .*no route to host"):
        fetch_bundle(URI, digest, cache, away)


def test_a_digest_that_is_none_names_no_file(cache: Path, copies: Copies) -> None:
    with pytest.raises(BundleError, match="is no digest"):
        fetch_bundle(URI, "../../etc", cache, copies)
    assert copies.count == 0


def test_mlflow_downloads_what_lies_elsewhere(
    digest: str, cache: Path, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download_artifacts(*, artifact_uri: str, dst_path: str) -> str:
        return str(copies(artifact_uri, Path(dst_path)))

    artifacts = SimpleNamespace(download_artifacts=download_artifacts)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(artifacts=artifacts))
    assert fetch_bundle(URI, digest, cache) == cache / digest


def test_mlflow_itself_brings_what_is_no_files_uri(
    registry: Registry, candidate: Candidate, unverified: None, cache: Path
) -> None:
    version = register(registry, candidate, Why(AT))
    uri = f"models:/{version.service}/{version.mlflow_version}/data/bundle"
    assert read_manifest(fetch_bundle(uri, version.digest, cache)).digest == version.digest
