"""The manifest of a bundle: its files with their hashes, and the digest of its content.

A bundle is one folder with exactly the files below. The digest covers their bytes and the
format, but no time, id or machine, so equal training gives an equal digest. The signature of
the digest is a file beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from mlops.errors import BundleError, BundleUnavailable

SCHEMA_VERSION = 1
MAX_BYTES = 2 * 1024**3

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"
REFERENCE = "reference.safetensors"
PROOF = "proof.json"
EVALUATION = "evaluation.json"
PICKLE = "model.pickle"


class Format(StrEnum):
    """How the bundle stores the model."""

    TENSORS = "tensors"
    SIGNED_PICKLE = "signed_pickle"


_COMMON = frozenset({CONFIG, GOLDEN, REFERENCE, PROOF, EVALUATION})
_FILES = {
    Format.TENSORS: _COMMON | {WEIGHTS},
    Format.SIGNED_PICKLE: _COMMON | {PICKLE},
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The SHA-256 of every file of a bundle, and the digest of the whole."""

    schema_version: int
    format: Format
    files: dict[str, str]
    digest: str

    def read(self, directory: Path, name: str) -> bytes:
        """Read a file of the bundle.

        Raises:
            BundleUnavailable: when this process cannot read it.
            BundleError: when these bytes are not those of the manifest: the file may have changed
                since `read_manifest` checked it.
        """
        with naming_read_errors(directory):
            content = (directory / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.files[name]:
            raise BundleError(f"{name} of bundle {directory} changed while it was loaded")
        return content

    def to_json(self) -> str:
        """The text of the manifest file."""
        return canonical_json(
            {
                "schema_version": self.schema_version,
                "format": self.format,
                "files": self.files,
                "digest": self.digest,
            }
        )


@contextmanager
def naming_read_errors(directory: Path) -> Iterator[None]:
    """Turn the system's refusals to read a bundle into `BundleUnavailable`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and directory.is_dir():
            raise BundleError(
                f"bundle {directory} has lost {Path(error.filename).name}; restore it from a copy "
                "or register the model again"
            ) from error
        raise BundleUnavailable(
            f"{error.filename or directory} cannot be read here ({error.strerror}); check that "
            "the folder is mounted and readable, and that this process has descriptors left "
            "(ulimit -n)"
        ) from error


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"


def make_manifest(directory: Path, form: Format) -> Manifest:
    """Hash the files of a bundle that was just written."""
    files = {name: _sha256(directory / name) for name in sorted(_FILES[form])}
    return Manifest(SCHEMA_VERSION, form, files, _digest(SCHEMA_VERSION, form, files))


def read_manifest(directory: Path, *, max_bytes: int = MAX_BYTES) -> Manifest:
    """Read the manifest and check every byte of the directory against it.

    Raises:
        BundleUnavailable: when this process cannot read it, or it is not there.
        BundleError: naming what is missing, stray, linked, too large, altered or too new.
    """
    with naming_read_errors(directory):
        present = _check_listing(directory, max_bytes)
        manifest = _parse_manifest(directory)
        _check_names(directory, present, set(manifest.files) | {MANIFEST, SIGNATURE})
        _check_hashes(directory, manifest)
    return manifest


def _check_names(directory: Path, present: set[str], expected: set[str]) -> None:
    if present != expected:
        missing = ", ".join(sorted(expected - present)) or "none"
        stray = ", ".join(sorted(present - expected)) or "none"
        raise BundleError(
            f"bundle {directory} has the wrong files (missing: {missing}; stray: {stray}); "
            "register the model again"
        )


def _check_hashes(directory: Path, manifest: Manifest) -> None:
    for name, recorded in manifest.files.items():
        if _sha256(directory / name) != recorded:
            raise BundleError(
                f"{name} of bundle {directory} was altered after registration; "
                "restore it from a copy or register the model again"
            )


def _check_listing(directory: Path, max_bytes: int) -> set[str]:
    """Check sizes and kinds of a bundle's files; returns their names."""
    if not directory.is_dir():
        raise BundleUnavailable(
            f"there is no bundle at {directory}; check the path, and that it is mounted here"
        )
    names, total = set(), 0
    for path in directory.iterdir():
        if path.is_symlink() or not path.is_file():
            raise BundleError(
                f"{path.name} of bundle {directory} is a link or a folder; "
                "a bundle holds plain files only"
            )
        names.add(path.name)
        total += path.stat().st_size
    if total > max_bytes:
        raise BundleError(
            f"bundle {directory} is {total:,} bytes, more than {max_bytes:,}; "
            "register a smaller model"
        )
    return names


def _parse_manifest(directory: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{directory / MANIFEST} is not a bundle's manifest ({error}); register the model again"
        ) from error
    version, form, files = manifest.schema_version, manifest.format, manifest.files
    if version != SCHEMA_VERSION:
        raise BundleUnavailable(
            f"bundle {directory} has schema version {version}, this release reads "
            f"{SCHEMA_VERSION}; install the release that wrote it or train the model again"
        )
    if set(files) != _FILES[form]:
        raise BundleError(
            f"bundle {directory} is of format {form!r} with files {', '.join(sorted(files))}; "
            f"known formats are {', '.join(Format)}, each with its own fixed files"
        )
    if manifest.digest != _digest(version, form, files):
        raise BundleError(
            f"the digest of bundle {directory} does not fit its manifest; it was altered"
        )
    return manifest


def _digest(version: int, form: Format, files: dict[str, str]) -> str:
    text = canonical_json({"schema_version": version, "format": form, "files": files})
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
