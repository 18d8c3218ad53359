"""Folders that are removed when their process ends them, or by the next one where it was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch_folder(path: Path, siblings: str) -> Iterator[Path]:
    """Make a folder for its owner alone; at the end it is removed, unless it was renamed.

    What killed processes left beside it is removed first: a key may be in it, or a whole store.

    Args:
        siblings: A pattern of the names of such folders.
    """
    for other in path.parent.glob(siblings):
        _remove_abandoned(other)
    path.mkdir(parents=True, mode=0o700)
    try:
        with _opened(path) as descriptor:
            # Not every file system has locks; where it has none, nothing abandoned is removed.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    # The system releases the lock of a process that is killed.
    with suppress(OSError), _opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
