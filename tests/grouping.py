"""Which worker of a parallel run gets which test, and what is run first.

A fixture that takes seconds to make is made once by every worker that needs it, so tests that use
the same one form a group, and a group runs on one worker. All other tests are handed out one by
one. What mostly waits begins first: others then run beside it, and nothing long is left to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SHARED = {"stage": "faults", "prefect_server": "prefect", "zygote": "zygote"}
"""Fixtures of the whole session that one worker makes for all tests that use them."""

FIRST = (
    "tests/faults",
    "tests/flows",
    "tests/test_readme.py",
    "tests/deployments",
    "tests/mlops/registry/test_crash.py",
    "tests/tasks",
)
"""Longest first; everything else follows in the order of collection."""

TIMING_AT_MOST = 10


def group_of(path: str, scopes: Mapping[str, str]) -> str | None:
    """The group of a test, from the scope of each fixture that it uses.

    Args:
        path: The test's file.
        scopes: Scope by fixture name, such as ``{"tmp_path": "function"}``.
    """
    for fixture, group in SHARED.items():
        if fixture in scopes:
            return group
    return path if "module" in scopes.values() else None


def rank_of(path: str) -> int:
    """The place of a test's file in `FIRST`; what is not named there comes last."""
    ranks = (rank for rank, prefix in enumerate(FIRST) if f"{path}/".startswith(f"{prefix}/"))
    return next(ranks, len(FIRST))


def check_timing(tests: Sequence[str]) -> None:
    """Refuse a list of ``timing`` tests that has grown.

    Raises:
        ValueError: naming them.
    """
    if len(tests) > TIMING_AT_MOST:
        raise ValueError(
            f"{len(tests)} tests are marked `timing`, at most {TIMING_AT_MOST} may be repeated: "
            f"{', '.join(tests)}. Make one of them independent of the clock."
        )
