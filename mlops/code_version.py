"""Tells which code made a version: the release, and the commit where the package is a checkout."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Collection
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "trading-mlops"
_ROOT = Path(__file__).parents[1]
_GIT_TIMEOUT_S = 10


@lru_cache(maxsize=1)
def code_version() -> str:
    """Release and commit, ``0.1.0+g1a2b3c4d5e6f``; ``.dirty`` where files differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD") if (_ROOT / ".git").exists() else ""
    if not commit:
        return release()
    dirty = ".dirty" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{release()}+g{commit}{dirty}"


def code_of(class_paths: Collection[str]) -> str:
    """The code version, and a digest of each module of the custom classes ``module:class``."""
    modules = sorted({path.partition(":")[0] for path in class_paths})
    digests = [hashlib.sha256(_read_source(module)).hexdigest()[:12] for module in modules]
    return " ".join([code_version(), *digests])


def _read_source(module: str) -> bytes:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        # It has no file, like a module made in a notebook; building its class says so later.
        return b""
    path = None if spec is None or not spec.has_location else spec.origin
    return b"" if path is None else Path(path).read_bytes()


@lru_cache(maxsize=1)
def release() -> str:
    """The installed release of the distribution."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
