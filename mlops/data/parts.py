"""Long columns, looked at in parts that fit the cache of a core, on several cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from numpy.typing import NDArray

PART_ROWS = 1 << 15
"""Rows of a part: five columns of them fit the cache."""

LONG_ROWS = 1 << 19
"""Fewer are looked at sooner than threads begin."""

MOST_THREADS = 8

Found = TypeVar("Found")


def map_parts(look: Callable[[int], Found], count: int) -> list[Found]:
    """``look`` at the first row of each part of ``count`` rows, in order.

    NumPy computes without the interpreter lock, so threads share the work of many rows.
    """
    begins = range(0, count, PART_ROWS)
    threads = min(os.cpu_count() or 1, MOST_THREADS) if count >= LONG_ROWS else 1
    if threads == 1:
        return [look(begin) for begin in begins]
    share = -(-len(begins) // threads)
    shares = [begins[first : first + share] for first in range(0, len(begins), share)]
    # Not kept for the next call: a process that is forked has no threads of its parent.
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda share: [look(begin) for begin in share], shares)
        return [one for several in found for one in several]


def is_true_of_all(test: Callable[..., bool], *columns: NDArray[Any], overlap: int = 0) -> bool:
    """Whether a test holds for each part of the columns.

    Args:
        overlap: Rows that a part repeats of the one before it.
    """

    def holds(begin: int) -> bool:
        part = slice(max(begin - overlap, 0), begin + PART_ROWS)
        return test(*(column[part] for column in columns))

    return all(map_parts(holds, len(columns[0])))
