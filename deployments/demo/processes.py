"""Processes that one of ours starts, and that must be gone when it ends."""

from __future__ import annotations

import subprocess


def end(process: subprocess.Popen[bytes], *, within_s: float) -> None:
    """Ask it to end, and end it where it does not within ``within_s``."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
