"""NumPy array types by what they hold. A comment or docstring at the use says the shape."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
Float32Array: TypeAlias = NDArray[np.float32]
"""What networks are fitted on and bundles keep."""

IntArray: TypeAlias = NDArray[np.int64]
RowArray: TypeAlias = NDArray[np.intp]
"""Positions of rows, for indexing."""

BoolArray: TypeAlias = NDArray[np.bool_]
TimeArray: TypeAlias = NDArray[np.datetime64]
"""Naive UTC times."""
