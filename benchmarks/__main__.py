"""`python -m benchmarks [--quick] [name ...]`: every figure, or those of the named files."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from benchmarks.figure import show

NAMES = (
    "reading",
    "features",
    "training",
    "searches",
    "series",
    "year",
    "serving",
    "http_api",
    "api_reads",
    "connections",
    "fairness",
    "soak",
    "bodies",
    "outages",
    "rollouts",
    "outcomes",
    "drift",
    "monitoring",
    "ab_tests",
    "judged",
)


def main(arguments: list[str]) -> int:
    """Run the named benchmarks; the exit status counts the figures that do not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="a taste in a fraction of the time")
    given = parser.parse_args(arguments)
    missed = 0
    for name in given.names or NAMES:
        figures = import_module(f"benchmarks.{name}").figures(quick=given.quick)
        show(name, figures)
        missed += sum(not figure.holds for figure in figures)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
