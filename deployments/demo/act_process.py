"""An act that runs in a process of its own, while the first two acts train and wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deployments.processes import stop_process

STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class ActProcess:
    """A running act; ``output`` is its text, ``section`` its part of the report."""

    process: subprocess.Popen[bytes]
    output: Path
    section: Path

    def finish(self, console: Console, status: str) -> list[str]:
        """Wait for its end, print its output, and return its section as JSON, if it wrote one.

        Args:
            status: What goes on meanwhile, for the terminal.

        Raises:
            SystemExit: when it failed.
        """
        with console.status(status):
            code = self.process.wait()
        output = self.output.read_text().rstrip()
        console.print(output, highlight=False, soft_wrap=True, markup=False)
        if code:
            log = self.output.with_suffix(".log")
            raise SystemExit(f"an act of the demonstration ended with status {code}; see {log}")
        return [self.section.read_text(encoding="utf-8")] if self.section.exists() else []


@contextmanager
def start_act(option: str, symbol: str, home: Path, *options: str) -> Iterator[ActProcess]:
    """Start an act under ``home``; its process is stopped when the block ends.

    Args:
        option: The option of ``deployments.demo`` that runs the act, given the section's path.
        options: Further options.
    """
    output, section = home.with_suffix(".txt"), home.with_suffix(".json")
    with output.open("wb") as file, home.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.demo", "--symbol", symbol, "--home", str(home),
             option, str(section), "--prefect-api", os.environ["PREFECT_API_URL"], *options],
            stdout=file,
            stderr=log,
        )  # fmt: skip
    try:
        yield ActProcess(process, output, section)
    finally:
        stop_process(process, within_s=STOP_S)
