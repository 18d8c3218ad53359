"""Linear algebra whose last bit does not depend on how many threads the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mlops.models.base import Floats

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS from cutting sums by its threads: the cut would be in the fitted weights.

    Of 100,000 rows one thread and two make different ridge coefficients, in the last digits.
    """
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    """NumPy's own, found once: looking through all that a process has loaded takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def linear_combination(design: Floats, coefficients: Floats) -> Floats:
    """``design (n, P) @ coefficients (P,)`` without BLAS, so it is bit-equal too."""
    combined: Floats = np.einsum("np,p->n", design, coefficients)
    return combined
