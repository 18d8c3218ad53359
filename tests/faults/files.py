"""Armed calls on files: `open`, `write` and `fsync` of what a process keeps, and its descriptors.

A disk is full, or the descriptors have run out, while the gate of the process is there.
"""

from __future__ import annotations

import builtins
import io
import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.armed import BEFORE, Fault, Recorder

CALLS = ("open", "write", "fsync")
PLACES = ("spool", "bars", "request-log")
"""Folders whose files are armed; a point is named by its call and the folder."""

DESCRIPTORS = "descriptors"
"""A fault at this point leaves the process no descriptor, so that its next `accept` fails too."""

LOOK_S = 0.05


def file_point(call: str, place: str) -> str:
    """The name of a point."""
    return f"file[{call} {place}]"


def arm_files(recorder: Recorder, faults: Sequence[Fault]) -> None:
    """Put the recorder into the calls on files, where one of the faults is about them."""
    points = {fault.point for fault in faults}
    if any(point.startswith("file[") for point in points):
        _arm_open(recorder)
        _arm_fsync(recorder)
    if DESCRIPTORS in points:
        threading.Thread(target=_hold_descriptors, args=(recorder,), daemon=True).start()


class WatchedFile:
    """A file that visits a point before each write."""

    def __init__(self, file: Any, recorder: Recorder, place: str) -> None:
        self._file, self._recorder, self._place = file, recorder, place

    def write(self, content: Any) -> int:
        self._recorder.visit(file_point("write", self._place), BEFORE)
        return int(self._file.write(content))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> WatchedFile:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


def _arm_open(recorder: Recorder) -> None:
    real: Callable[..., Any] = io.open

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        place = _place_of(file) if set(mode) & set("wax+") else None
        if place is None:
            return real(file, mode, *args, **options)
        recorder.visit(file_point("open", place), BEFORE)
        return WatchedFile(real(file, mode, *args, **options), recorder, place)

    # `pathlib` looks the first one up, everybody else the second one.
    io.open = opened
    builtins.open = opened


def _arm_fsync(recorder: Recorder) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        place = _place_of(os.readlink(f"/proc/self/fd/{descriptor}"))
        if place is not None:
            recorder.visit(file_point("fsync", place), BEFORE)
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def _place_of(file: Any) -> str | None:
    """The armed folder that a file lies in; None for descriptors and all other files."""
    if isinstance(file, int):
        return None
    parts = Path(os.fsdecode(file)).parts
    return next((place for place in PLACES if place in parts), None)


def _hold_descriptors(recorder: Recorder) -> None:
    """Let the process open nothing more while its gate is there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_held = False
    while True:
        wanted = recorder.gate is not None and recorder.gate.exists()
        if wanted and not is_held:
            # The next free number is the first that may not be given out.
            resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free_descriptor(), hard))
            recorder.note("struck", f"fails:EMFILE before {DESCRIPTORS}")
        elif is_held and not wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        is_held = wanted
        time.sleep(LOOK_S)


def _lowest_free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    with suppress(OSError):
        os.close(descriptor)
    return descriptor
