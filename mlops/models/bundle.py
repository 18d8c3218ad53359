"""Opening a version's bundle and forecasting from plain bars.

MLflow calls `_load_pyfunc`, so the logged model ships no code.
``python -m mlops.models.bundle verify PATH`` opens a bundle in a clean process and reproduces
its golden examples; it imports only modules that the model needs.

The process states what it trusts (`Trust`); that is never read from the bundle.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops.arrays import FloatArray
from mlops.data.calendar import load_calendar
from mlops.data.cleaning import clean_bars
from mlops.data.time_columns import TimeArguments
from mlops.errors import BundleError, BundleUnavailable, MlopsError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models import golden, manifest
from mlops.models.base import Forecaster, restore_forecaster
from mlops.models.custom import Pickled
from mlops.models.manifest import Format, Manifest
from mlops.models.recipe import Recipe
from mlops.models.signing import SigningKey, load_key
from mlops.models.windows import Window, join_windows
from mlops.service import Service

FORECAST = "forecast"
_END_OF_TIME = pd.Timestamp("2200-01-01", tz="UTC")


@dataclass(frozen=True, slots=True)
class Trust:
    """The bundles that this process may load.

    Args:
        key: Every bundle must carry a signature by this key; None accepts unsigned bundles.
        modules: Modules whose classes, and those of modules inside them, may be custom models.
        allow_signed_pickle: Whether a signed pickle may load; it needs a key as well.
    """

    key: SigningKey | None = None
    modules: tuple[str, ...] = ()
    allow_signed_pickle: bool = False

    def classes(self, recipe: Mapping[str, Any]) -> frozenset[str]:
        """The class paths in a recipe and its members whose module is trusted."""
        path = str(recipe.get("params", {}).get("class_path", ""))
        module = path.partition(":")[0]
        own = {path} if any(f"{module}.".startswith(f"{name}.") for name in self.modules) else set()
        return frozenset(own).union(*(self.classes(member) for member in recipe.get("members", ())))


_in_process = Trust()


def trust_in_process(trust: Trust) -> None:
    """Set what `mlflow.pyfunc.load_model` may load in this process."""
    global _in_process  # noqa: PLW0603 - MLflow calls the loader with a path and nothing else
    _in_process = trust


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; ``config`` is its config.json."""

    path: Path
    manifest: Manifest
    config: Mapping[str, Any]
    forecaster: Forecaster = field(repr=False)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def service(self) -> Service:
        return _parse_service(self.config["service"])

    def predict(self, bars: pd.DataFrame, **written: Unpack[TimeArguments]) -> pd.DataFrame:
        """Forecasts by bar open time, for the rows that have enough history before them.

        ``bars`` is a plain OHLCV frame, indexed by open time or with a column of it; every
        bar counts as complete. ``written`` says how their time is written.

        Raises:
            BarsError: when the bars break the contract.
        """
        return self.forecast(self.dataset(bars, **written))

    def dataset(self, bars: object, **written: Unpack[TimeArguments]) -> Dataset:
        """Plain bars, cleaned, as a dataset with this model's calendar and target.

        Args:
            bars: A data frame, or another table with names of its columns.
            written: How their time is written.

        Raises:
            BarsError: when the bars break the contract.
        """
        service = self.service
        calendar = load_calendar(self.config["calendar"])
        cleaned = clean_bars(bars, timeframe=service.timeframe, now=_END_OF_TIME, **written)
        target = TargetSpec(service.target, service.horizon)
        return Dataset(cleaned.frame, timeframe=service.timeframe, target=target, calendar=calendar)

    def forecast(self, dataset: Dataset) -> pd.DataFrame:
        """`predict` for bars that are a dataset already."""
        forecasts = pd.DataFrame({FORECAST: self.forecaster.forecast(dataset)}, dataset.frame.index)
        return forecasts.dropna()

    def forecast_windows(self, windows: Sequence[Window]) -> list[FloatArray]:
        """Forecasts for every bar of each window (n,); NaN where none can be made.

        Each equals the forecast that `predict` makes from the window's bars alone. A forecaster
        that is not `Forecaster.row_by_row` gets one window at a time.
        """
        if len(windows) == 1 or self.forecaster.row_by_row:
            return self._forecast_joined(windows) if windows else []
        return [self._forecast_joined([window])[0] for window in windows]

    def _forecast_joined(self, windows: Sequence[Window]) -> list[FloatArray]:
        joined = join_windows(windows)
        dataset = Dataset.of_bars(
            joined.bars,
            timeframe=self.service.timeframe,
            target=self.forecaster.target,
            calendar=load_calendar(self.config["calendar"]),
            history=joined.history,
        )
        own = joined.history >= self.forecaster.warm_up - 1
        return joined.split(self.forecaster.forecast(dataset, own))

    def examples(self) -> tuple[golden.Golden, ...]:
        """The golden examples in the bundle."""
        return golden.golden_from_tensors(self.tensors(manifest.GOLDEN))

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """The named arrays of one of its safetensors files.

        Raises:
            BundleError: when the file is another one than was checked.
        """
        return _parse_tensors(self.manifest.read(self.path, name), name)

    def check_examples(self) -> float:
        """Reproduce the golden examples; returns the largest deviation.

        Raises:
            BundleError: when a forecast differs by more than the tolerance, or cannot be made.
        """
        try:
            return self._largest_deviation()
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(
                f"the golden examples of {self.path.name} cannot be forecast: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _largest_deviation(self) -> float:
        spread = float(self.config["spread"])
        worst = 0.0
        for number, example in enumerate(self.examples()):
            forecasts = self.predict(example.bars)[FORECAST]
            got = float(forecasts.iloc[-1]) if len(forecasts) else float("nan")
            worst = max(worst, golden.deviation(got, example.expected, spread))
            if worst > golden.RELATIVE_TOLERANCE:
                raise BundleError(
                    f"golden example {number} of {self.path.name} gives {got!r} instead of "
                    f"{example.expected!r}; the model loads but forecasts something else. Load it "
                    f"with the release that trained it ({self.config['code_version']})"
                )
        return worst


@lru_cache(maxsize=1024)
def _parse_service(key: str) -> Service:
    return Service.parse(key)


def open_bundle(path: Path, trust: Trust | None = None) -> Bundle:
    """Check every byte of a bundle, then load its model.

    Args:
        trust: By default unsigned bundles load, custom models and pickles do not.

    Raises:
        BundleError: when it is incomplete, not signed as trusted, or does not load.
    """
    trust = trust or Trust()
    checked = manifest.read_manifest(path)
    if trust.key is not None:
        trust.key.check(path, checked.digest)
    # The bytes that are parsed are hashed: the files could have changed since they were checked.
    try:
        config = json.loads(checked.read(path, manifest.CONFIG))
        if checked.format is Format.SIGNED_PICKLE:
            forecaster: Forecaster = _unpickle_model(path, checked, config, trust)
        else:
            weights = _parse_tensors(checked.read(path, manifest.WEIGHTS), manifest.WEIGHTS)
            allowed = trust.classes(config["model"]["recipe"])
            forecaster = restore_forecaster(config["model"], weights, allowed_classes=allowed)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(
            f"the model of bundle {path} does not load: {type(error).__name__}: {error}"
        ) from error
    return Bundle(path, checked, config, forecaster)


def _parse_tensors(content: bytes, name: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{name} is not a safetensors file ({error})") from error


def _unpickle_model(
    path: Path, checked: Manifest, config: Mapping[str, Any], trust: Trust
) -> Pickled:
    if not trust.allow_signed_pickle or trust.key is None:
        raise BundleUnavailable(
            f"the model of bundle {path} is a signed pickle, which runs code when it loads; "
            "set ALLOW_SIGNED_PICKLE=true only where you trust who registered it, or put its "
            "class into a module of CUSTOM_MODEL_MODULES and register it again"
        )
    pickled = checked.read(path, manifest.PICKLE)
    try:
        model = pickle.loads(pickled)
    except Exception as error:
        raise BundleError(
            f"the pickled model of bundle {path} does not load here "
            f"({type(error).__name__}: {error}); its class must be importable in every process "
            "that loads it, or be defined in the notebook itself"
        ) from error
    service = Service.parse(config["service"])
    target = TargetSpec(service.target, service.horizon)
    return Pickled(Recipe.from_dict(config["model"]["recipe"]), target, model)


class _PyfuncModel:
    """The object on which MLflow calls ``predict``."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        return self.bundle.predict(model_input)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> _PyfuncModel:
    """Entry point for MLflow; ``model_config`` is ignored, as the artifact may contain it."""
    return _PyfuncModel(open_bundle(Path(path), _in_process))


def main(arguments: Sequence[str]) -> int:
    """Verify a bundle; prints its digest and largest deviation as JSON, or why it failed."""
    parser = argparse.ArgumentParser(prog="python -m mlops.models.bundle")
    parser.add_argument("command", choices=["verify"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--module", action="append", default=[])
    parser.add_argument("--allow-signed-pickle", action="store_true")
    options = parser.parse_args(arguments)
    try:
        key = load_key(options.key_file) if options.key_file else None
        bundle = open_bundle(
            options.path, Trust(key, tuple(options.module), options.allow_signed_pickle)
        )
        worst = bundle.check_examples()
    except MlopsError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"digest": bundle.digest, "max_deviation": np.float64(worst).item()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
