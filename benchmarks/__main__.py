"""`python -m benchmarks [name ...]`: every figure, or those of the named files."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks.figure import show

NAMES = ("features", "training", "searches")


def main(names: list[str]) -> int:
    """Run the named benchmarks; the exit status counts the figures that do not hold."""
    missed = 0
    for name in names or NAMES:
        figures = import_module(f"benchmarks.{name}").figures()
        show(name, figures)
        missed += sum(not figure.holds for figure in figures)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
