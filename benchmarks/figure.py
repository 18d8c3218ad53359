"""One measured figure and the table they are printed in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 140
"""Columns where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, the value, the promised bound and the peer."""

    what: str
    measured: str
    asked: str
    holds: bool
    peer: str = ""


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print figures as one table."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for heading in ("figure", "measured", "asked", "holds", "beside"):
        table.add_column(heading)
    for figure in figures:
        verdict = "yes" if figure.holds else "NO"
        table.add_row(figure.what, figure.measured, figure.asked, verdict, figure.peer)
    console = Console()
    (console if console.is_terminal else Console(width=PLAIN_WIDTH)).print(table)


def best_seconds(work: Callable[[], object], *, runs: int = 3) -> float:
    """Least CPU seconds of a few runs: other processes disturbed that run least."""
    spent = []
    for _ in range(runs):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)
