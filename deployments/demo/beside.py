"""The third act in a process of its own: its hours go by while the first two train and wait."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from deployments.demo.processes import end
from mlops.reports.page import PastSection

STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Beside:
    """The process, and where it writes what it says and shows."""

    process: subprocess.Popen[bytes]
    said: Path
    section: Path

    def tell(self, console: Console) -> list[PastSection]:
        """Wait for its end, print what it said, and return what it shows.

        Raises:
            SystemExit: when it failed.
        """
        with console.status("the hours of 2018 go by"):
            code = self.process.wait()
        console.print(self.said.read_text().rstrip(), highlight=False, soft_wrap=True, markup=False)
        if code:
            log = self.said.with_suffix(".log")
            raise SystemExit(f"the third act ended with status {code}; see {log}")
        return [PastSection.from_json(self.section.read_text())] if self.section.exists() else []


@contextmanager
def past_beside(symbol: str, home: Path, until: datetime) -> Iterator[Beside]:
    """Begin the third act under ``home``; it is gone when the block ends."""
    said, section = home.with_suffix(".txt"), home.with_suffix(".json")
    with said.open("wb") as file, home.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.demo", "--symbol", symbol, "--home", str(home),
             "--until", f"{until:%Y-%m-%d}", "--only-past", str(section)],
            stdout=file,
            stderr=log,
        )  # fmt: skip
    try:
        yield Beside(process, said, section)
    finally:
        end(process, within_s=STOP_S)
