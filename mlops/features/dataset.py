"""`Dataset`: one service's bars with features, labels, and windows that cross no hole."""

from __future__ import annotations

import hashlib
import os
import tempfile
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from mlops.arrays import BoolArray, Float32Array, FloatArray, RowArray
from mlops.data.bars import COLUMNS, Provenance, content_hash
from mlops.data.calendar import Calendar, hole_before, load_calendar
from mlops.data.findings import Findings
from mlops.errors import FeatureError
from mlops.features.bar_arrays import BarArrays
from mlops.features.spec import FeatureSpec, compute_features
from mlops.features.targets import (
    Labels,
    TargetSpec,
    build_target,
    naive_forecast,
    next_bar_returns,
)
from mlops.service import Timeframe


class Dataset:
    """Bars with their features and labels; a row is a position in the bar frame.

    The same class serves training, batch and live: labels that are not known yet are NaN.
    Features are computed once for each specification. With ``cache_dir`` those of built-in
    indicators are stored on disk as well, keyed by bars, holes and specification.

    >>> from mlops.data.simulator import simulate_bars
    >>> from mlops.service import Target
    >>> dataset = Dataset(
    ...     simulate_bars(500, seed=1),
    ...     timeframe=Timeframe("1h"),
    ...     target=TargetSpec(Target.VOLATILITY, horizon=4),
    ... )
    >>> spec = FeatureSpec(("log_return", "volatility_24"))
    >>> rows = dataset.labelled(spec, sequence_length=8)
    >>> len(dataset), rows[0], rows[-1]
    (500, np.int64(31), np.int64(495))
    >>> windows(dataset.matrix(spec), rows, sequence_length=8).shape
    (465, 8, 2)
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        timeframe: Timeframe,
        target: TargetSpec,
        calendar: Calendar | None = None,
        cache_dir: Path | None = None,
        provenance: Provenance | None = None,
        findings: Findings | None = None,
    ) -> None:
        """Wrap a validated bar frame.

        Args:
            calendar: Decides which gaps are holes; by default the market never closes.
            cache_dir: The folder for features on disk; None keeps them in memory only.
            provenance: The origin of the bars, recorded with a model that is trained on them.
            findings: What was found of the bars when they were read, recorded with it too.
        """
        self.frame = frame
        self.provenance = provenance
        self.findings = findings
        self.timeframe = timeframe
        self.target = target
        self.calendar = calendar or load_calendar("24/7")
        self.cache_dir = cache_dir
        self.bars = BarArrays.of(frame, hole_before(frame, timeframe, self.calendar))
        self._history: RowArray | None = None
        self._matrices: dict[FeatureSpec, Float32Array] = {}

    @classmethod
    def of_bars(
        cls,
        bars: BarArrays,
        *,
        timeframe: Timeframe,
        target: TargetSpec,
        calendar: Calendar | None = None,
        history: RowArray | None = None,
    ) -> Dataset:
        """Wrap checked bars that are arrays already, with their mask of holes.

        Args:
            history: For histories that lie end to end, how many earlier bars of its own history
                each bar has (N,); by default all bars are one history.
        """
        dataset = cls.__new__(cls)
        dataset.provenance = dataset.findings = dataset.cache_dir = None
        dataset.timeframe, dataset.target = timeframe, target
        dataset.calendar = calendar or load_calendar("24/7")
        dataset.bars = bars
        dataset._history = history
        dataset._matrices = {}
        return dataset

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The bars as a frame indexed by open time; built on first use from arrays."""
        index = pd.DatetimeIndex(self.bars.open_time, tz="UTC", name="open_time")
        return pd.DataFrame({name: getattr(self.bars, name) for name in COLUMNS}, index)

    def __len__(self) -> int:
        return len(self.bars)

    @property
    def step(self) -> timedelta:
        return self.timeframe.step

    @property
    def holes(self) -> BoolArray:
        """True where a bar does not directly follow its predecessor (N,)."""
        return self.bars.hole_before

    @cached_property
    def content_hash(self) -> str:
        """The data watermark of the bars."""
        return content_hash(self.frame)

    @cached_property
    def labels(self) -> Labels:
        """Label, naive forecast and times of every row."""
        return build_target(self.bars, self.target, step=self.step, persistence=self.persistence)

    @cached_property
    def persistence(self) -> FloatArray:
        """The naive forecast of every row (N,); reading it builds no labels."""
        return naive_forecast(self.bars, self.target)

    @cached_property
    def next_returns(self) -> FloatArray:
        """Simple return over the bar after each row (N,); NaN where there is none."""
        return next_bar_returns(self.bars)

    def matrix(self, spec: FeatureSpec) -> Float32Array:
        """Features of every bar (N, F) float32, read-only; NaN in a feature's warm-up.

        Raises:
            FeatureError: when a feature is not finite after its warm-up.
        """
        if spec not in self._matrices:
            cached = self.cache_dir is not None and spec.built_in
            matrix = self._load_or_compute(spec) if cached else self._compute(spec)
            matrix.flags.writeable = False
            self._matrices[spec] = matrix
        return self._matrices[spec]

    def usable(self, spec: FeatureSpec, sequence_length: int = 1) -> BoolArray:
        """Rows whose window is complete, past the warm-up and without a hole, a mask (N,)."""
        positions = np.arange(len(self))
        run_start = np.maximum.accumulate(np.where(self.holes, positions, 0))
        first = positions - (sequence_length - 1)
        usable: BoolArray = (first >= spec.warm_up) & (first >= run_start)
        return usable

    def labelled(self, spec: FeatureSpec, sequence_length: int = 1) -> RowArray:
        """Positions of rows that are usable and have a label, for training and judging."""
        return np.flatnonzero(self.usable(spec, sequence_length) & self.labels.valid)

    def _compute(self, spec: FeatureSpec) -> Float32Array:
        matrix = compute_features(self.bars, spec)
        if not np.isfinite(matrix[spec.warm_up :].sum(dtype=np.float64)):
            self._refuse_missing(matrix, spec)
        return matrix

    def _refuse_missing(self, matrix: Float32Array, spec: FeatureSpec) -> None:
        history = np.arange(len(self)) if self._history is None else self._history
        missing = np.argwhere(~np.isfinite(matrix) & (history >= spec.warm_up)[:, None])
        if missing.size:
            row, column = missing[0]
            raise FeatureError(
                f"feature {spec.names[column]!r} is {matrix[row, column]} at bar "
                f"{self.frame.index[row]}; a feature is finite on every bar past its warm-up"
            )

    def _load_or_compute(self, spec: FeatureSpec) -> Float32Array:
        assert self.cache_dir is not None
        # The calendar decides which gaps are holes, and those change the features.
        text = f"{self.content_hash}:{spec.digest}:".encode()
        key = hashlib.sha256(text + np.packbits(self.holes).tobytes()).hexdigest()
        path = self.cache_dir / f"{key}.npy"
        stored = _read_cached(path)
        if stored is not None and stored.shape == (len(self), len(spec)):
            return stored
        matrix = self._compute(spec)
        _write_cached(path, matrix)
        return matrix


def windows(matrix: Float32Array, rows: RowArray, sequence_length: int) -> Float32Array:
    """Windows of the ``sequence_length`` rows that end at each of ``rows`` (n, T, F).

    Where ``rows`` are consecutive the result is a view of ``matrix``; otherwise the windows are
    copied, so pass a batch at a time.

    Raises:
        FeatureError: when a window would begin before the first row.
    """
    if len(rows) and int(np.min(rows)) < sequence_length - 1:
        raise FeatureError(
            f"row {int(np.min(rows))} has no window of {sequence_length} bars; "
            "take rows from Dataset.usable"
        )
    if len(matrix) < sequence_length:
        return np.empty((0, sequence_length, matrix.shape[1]), dtype=matrix.dtype)
    every = sliding_window_view(matrix, sequence_length, axis=0).transpose(0, 2, 1)
    first = np.asarray(rows) - (sequence_length - 1)
    if len(first) and np.array_equal(first, np.arange(first[0], first[0] + len(first))):
        return every[int(first[0]) : int(first[0]) + len(first)]
    chosen: Float32Array = every[first]
    return chosen


def _read_cached(path: Path) -> Float32Array | None:
    """The features on disk; None where the file is missing or damaged."""
    try:
        stored: Float32Array = np.load(path, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return stored


def _write_cached(path: Path, matrix: Float32Array) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        np.save(file, matrix, allow_pickle=False)
    Path(name).replace(path)
