"""A version's fitted reference on this machine: fitted at its first look, read at every later one.

Each hourly run is a new process that would fit every version anew; reading is ten times as fast.
The files are a cache: they may be deleted, and one that cannot be read is fitted again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mlops.code_version import release
from mlops.monitoring.drift.config import DriftConfig
from mlops.monitoring.drift.reference import FORMAT, DriftReference

log = logging.getLogger(__name__)

_VALUES = "reference"


def place_of(folder: Path, digest: str, config: DriftConfig) -> Path:
    """Where the reference of the bundle with this digest lies, as this release fits it."""
    fitted = f"{config.window_bars}-{config.looks_per_budget}-{FORMAT}-{release()}"
    return folder / f"{digest}-{fitted}.safetensors"


def kept_reference(path: Path, fit: Callable[[], DriftReference]) -> DriftReference:
    """The reference at ``path``, fitted and left there where none can be read."""
    found = _read(path)
    if found is None:
        found = fit()
        _leave(path, found)
    return found


def _read(path: Path) -> DriftReference | None:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            values = json.loads(file.metadata()[_VALUES])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return DriftReference.from_parts(values, arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s is fitted again, for it cannot be read: %s", path, error)
        return None


def _leave(path: Path, reference: DriftReference) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(reference.to_arrays(), part, {_VALUES: json.dumps(reference.to_dict())})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        # The watch goes on where the disk is full; it takes longer.
        log.warning("%s was not kept: %s", path, error)
        with suppress(OSError):
            part.unlink(missing_ok=True)
