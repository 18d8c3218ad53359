"""The folder of the bar cache: its identity, and whether its disk is full."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from pathlib import Path

ID_FILE = "folder-id.json"
LEAST_FREE = 1024**2
"""Bytes; with less a page of bars may not fit."""


def identify_folder(root: Path) -> str:
    """The folder's id: the same in all processes that see this very folder, on any machine.

    The id lies in a file of the folder. The file notes its own inode, so that a copy of the folder
    gets an id of its own.

    Raises:
        OSError: when the folder cannot be written.
    """
    known = _read_id(root / ID_FILE)
    if known is not None:
        return known
    root.mkdir(parents=True, exist_ok=True)
    made = uuid.uuid4().hex
    part = root / f"{ID_FILE}.{made}.part"
    try:
        with part.open("w") as file:
            json.dump({"id": made, "inode": os.fstat(file.fileno()).st_ino}, file)
        part.replace(root / ID_FILE)
    finally:
        part.unlink(missing_ok=True)
    # Where two processes write an id at the same time, the later one counts for both.
    return _read_id(root / ID_FILE) or made


def _read_id(path: Path) -> str | None:
    try:
        with path.open() as file:
            noted = json.load(file)
            is_copy = noted["inode"] != os.fstat(file.fileno()).st_ino
            return None if is_copy else str(noted["id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def describe_full_disk(folder: Path) -> str:
    """Says that the folder's disk is full; empty where it is not, or there is no folder yet."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    if free >= LEAST_FREE:
        return ""
    return (
        f"the disk of {folder} is full ({errno.errorcode[errno.ENOSPC]}, {free // 1024:,} KiB "
        "free); free some space, and all goes on by itself"
    )


def describe_os_error(error: OSError) -> str:
    """The system's words for an error, with its name: ``No space left on device (ENOSPC)``."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return f"{error.strerror or error} ({name})"
