"""Linear algebra whose last bit does not depend on how many threads the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mlops.models.base import Floats


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS from cutting sums by its threads: the cut would be in the fitted weights.

    Of 100,000 rows one thread and two make different ridge coefficients, in the last digits.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def linear_combination(design: Floats, coefficients: Floats) -> Floats:
    """``design (n, P) @ coefficients (P,)`` without BLAS, so it is bit-equal too."""
    combined: Floats = np.einsum("np,p->n", design, coefficients)
    return combined
