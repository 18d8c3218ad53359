"""Writes a version's bundle, and verifies in a clean process that it loads and forecasts the same.

A bundle holds tensors and JSON, or a signed pickle of a foreign model. Nothing in it differs
between two equal trainings: no time, no id, no machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.arrays import RowArray
from mlops.code_version import code_version
from mlops.data.bars import content_hash
from mlops.errors import BundleError
from mlops.features.dataset import Dataset
from mlops.features.indicators import log_range
from mlops.features.spec import DEFAULT_FEATURES, FORMULA_VERSION, FeatureSpec
from mlops.models import manifest
from mlops.models.base import Forecaster
from mlops.models.golden import GOLDEN_EXAMPLES, Golden, deviation, golden_tensors
from mlops.models.manifest import Format, canonical_json, make_manifest
from mlops.models.signing import SigningKey
from mlops.service import Service
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import record_table

VERIFY_TIMEOUT_S = 120.0
REFERENCE_ROWS = 5000
PARITY_TOLERANCE = 1e-4
"""Largest deviation of a forecast from the last warm-up bars from one from all bars, as a share of
the labels' standard deviation."""

_KEPT_VARIABLES = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "LANG")


@dataclass(frozen=True, slots=True)
class BundleParts:
    """Everything a bundle will hold.

    Args:
        config: What opening the bundle needs, as JSON.
        golden: Bars with the forecast that the opened model must make from them.
        reference: Columns that drift and live losses are measured against.
        proof: Leakage proof of the features.
        evaluation: Figures of the holdout.
        pickled: A foreign model; it replaces the tensors.
    """

    config: Mapping[str, Any]
    golden: tuple[Golden, ...] = field(repr=False)
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    reference: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    proof: Mapping[str, Any] = field(default_factory=dict, repr=False)
    evaluation: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pickled: bytes | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Approximate bytes on disk."""
        arrays = (*self.tensors.values(), *self.reference.values())
        return sum(array.nbytes for array in arrays) + len(self.pickled or b"") + 1_000_000


def bundle_parts(
    forecaster: Forecaster,
    dataset: Dataset,
    service: Service,
    *,
    proof: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    record: Forecasts | None = None,
    pickled: bytes | None = None,
) -> BundleParts:
    """Collect everything that the bundle of a fitted forecaster holds.

    Args:
        dataset: The bars it was trained on.
        record: Its out-of-sample forecasts; its live losses will be compared with theirs.

    Raises:
        BundleError: when the forecaster cannot forecast from a short window of bars what it
            forecasts from all of them.
    """
    state, tensors = forecaster.state()
    valid = dataset.labels.y[dataset.labels.valid]
    spread = float(np.std(valid)) if valid.size else 0.0
    config = {
        "service": service.key,
        "calendar": dataset.calendar.name,
        "model": state,
        "warm_up": window_bars(forecaster, dataset),
        "formula_version": FORMULA_VERSION,
        "spread": spread,
        "watermark": content_hash(dataset.frame),
        "trained_until": last_close(dataset).isoformat(),
        "code_version": code_version(),
    }
    return BundleParts(
        config=config,
        golden=_make_golden(forecaster, dataset, spread),
        tensors=tensors,
        reference=reference_table(forecaster, dataset) | record_table(record),
        proof=proof or {},
        evaluation=evaluation or {},
        pickled=pickled,
    )


def last_close(dataset: Dataset) -> pd.Timestamp:
    """When the last bar of the dataset closed (UTC)."""
    return pd.Timestamp(dataset.frame.index[-1]) + dataset.step


def window_bars(forecaster: Forecaster, dataset: Dataset) -> int:
    """Bars that one live forecast needs, the forecast bar included."""
    return max(forecaster.warm_up, dataset.target.warm_up + 1)


def reference_features(forecaster: Forecaster) -> FeatureSpec:
    """The features whose values a bundle keeps for drift: the model's own, or the default ones."""
    return FeatureSpec(forecaster.recipe.features or DEFAULT_FEATURES)


def reference_table(
    forecaster: Forecaster, dataset: Dataset, *, rows: int = REFERENCE_ROWS
) -> dict[str, NDArray[Any]]:
    """Columns of the last labelled rows, which drift is measured against.

    They are open times, features, labels, forecasts, and each bar's log range: its jumps show
    days before the features, which average over many bars, do.
    """
    spec = reference_features(forecaster)
    chosen = dataset.labelled(spec, forecaster.recipe.sequence_length)
    chosen = chosen[forecaster.ready(dataset)[chosen]][-rows:]
    opens = pd.DatetimeIndex(dataset.frame.index).tz_convert("UTC").as_unit("ns").asi8
    features = dataset.matrix(spec)[chosen]
    columns = {f"feature.{name}": features[:, i] for i, name in enumerate(spec.names)}
    return {
        "open_time": opens[chosen],
        "y": dataset.labels.y[chosen],
        "persistence": dataset.labels.persistence[chosen],
        "forecast": forecaster.predict(dataset, chosen) if chosen.size else np.empty(0),
        "realised": log_range(dataset.bars)[chosen],
        **columns,
    }


def write_bundle(parts: BundleParts, directory: Path, key: SigningKey) -> str:
    """Write and sign a bundle; returns its digest.

    Args:
        directory: Must not exist yet.

    Raises:
        BundleError: when a part cannot be written as JSON.
    """
    from safetensors.numpy import save_file

    directory.mkdir(parents=True)
    texts = {
        manifest.CONFIG: parts.config,
        manifest.PROOF: parts.proof,
        manifest.EVALUATION: parts.evaluation,
    }
    for name, value in texts.items():
        try:
            text = canonical_json(value)
        except (TypeError, ValueError) as error:
            raise BundleError(f"{name} of the bundle cannot be written as JSON: {error}") from error
        (directory / name).write_text(text, encoding="utf-8")
    save_file(_contiguous(golden_tensors(parts.golden)), directory / manifest.GOLDEN)
    save_file(_contiguous(parts.reference), directory / manifest.REFERENCE)
    if parts.pickled is None:
        save_file(_contiguous(parts.tensors), directory / manifest.WEIGHTS)
    else:
        (directory / manifest.PICKLE).write_bytes(parts.pickled)
    form = Format.TENSORS if parts.pickled is None else Format.SIGNED_PICKLE
    made = make_manifest(directory, form)
    (directory / manifest.MANIFEST).write_text(made.to_json(), encoding="utf-8")
    key.write(directory, made.digest)
    return made.digest


def verify_bundle(
    path: Path,
    *,
    key_file: Path,
    modules: tuple[str, ...] = (),
    allow_signed_pickle: bool = False,
    timeout_s: float = VERIFY_TIMEOUT_S,
) -> str:
    """Open a bundle in a clean process and repeat its golden examples; returns its digest.

    Args:
        key_file: The installation's signing key.
        modules: Modules whose custom classes may be built.

    Raises:
        BundleError: when the bundle does not load, forecasts otherwise, or takes too long.
    """
    command = [sys.executable, "-m", "mlops.models.bundle", "verify", str(path)]
    command += ["--key-file", str(key_file)]
    command += [part for module in modules for part in ("--module", module)]
    command += ["--allow-signed-pickle"] if allow_signed_pickle else []
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    try:
        done = subprocess.run(
            command,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"bundle {path} did not load within {timeout_s:g} s in a clean process; "
            "register a smaller model or try again when the machine is less busy"
        ) from error
    if done.returncode:
        why = done.stderr.strip() or f"the process ended with status {done.returncode}"
        raise BundleError(f"a clean process could not verify the bundle: {why[-2000:]}")
    return str(json.loads(done.stdout)["digest"])


def _make_golden(forecaster: Forecaster, dataset: Dataset, spread: float) -> tuple[Golden, ...]:
    size = window_bars(forecaster, dataset)
    rows = _rows_with_window(forecaster, dataset, size)
    examples = []
    for row, from_all in zip(rows, forecaster.predict(dataset, rows), strict=True):
        bars = dataset.frame.iloc[row - size + 1 : row + 1]
        window = Dataset(
            bars, timeframe=dataset.timeframe, target=dataset.target, calendar=dataset.calendar
        )
        from_window = float(forecaster.forecast(window)[-1])
        if deviation(from_window, float(from_all), spread) > PARITY_TOLERANCE:
            raise BundleError(
                f"{forecaster.recipe.model_type} forecasts {from_window!r} from the {size} bars "
                f"up to {bars.index[-1]} but {float(from_all)!r} from all bars; its warm-up is too "
                "short, or a feature depends on where the data begin"
            )
        examples.append(Golden(bars, from_window))
    return tuple(examples)


def _rows_with_window(forecaster: Forecaster, dataset: Dataset, size: int) -> RowArray:
    """Rows, spread evenly, that end a stretch of ``size`` bars without a hole."""
    positions = np.arange(len(dataset))
    run_start = np.maximum.accumulate(np.where(dataset.holes, positions, 0))
    whole = (positions - run_start >= size - 1) & forecaster.ready(dataset)
    rows = np.flatnonzero(whole)
    if not rows.size:
        raise BundleError(
            f"no stretch of {size:,} bars without a hole among {len(dataset):,} bars to make a "
            "golden example from; give more bars"
        )
    return np.unique(rows[np.linspace(0, rows.size - 1, GOLDEN_EXAMPLES).astype(np.intp)])


def _contiguous(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays in C order: safetensors writes the memory as it lies, whatever the strides."""
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
