"""The platform's calls work as its README writes them, and refuse what cannot be."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops.data.simulator import simulate_bars
from mlops.errors import BundleError, MlopsError, RegistryError, ServiceError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.manager import MLOpsManager
from mlops.models.base import FitContext, build_forecaster, default_recipe
from mlops.models.bundle import Trust, open_bundle, trust_in_process
from mlops.registry.connection import load
from mlops.service import Timeframe
from mlops.settings import Settings
from mlops.stats.metrics import ModelMetrics
from mlops.store import ModelVersion, Status

_HOUR = Timeframe("1h")
CLAIMS = ModelMetrics(mse=0.05, mae=0.03, r2_score=0.92, accuracy=0.85)


class Mine:
    """A model of a user's own, as the README shows one."""

    def __init__(self, config: dict[str, float]) -> None:
        self.config = config

    def train(self, data: pd.DataFrame) -> None:
        self.config["level"] = float(data["target"].mean())

    def predict(self, features: pd.DataFrame) -> Any:
        return np.full(len(features), self.config["level"])


# A class of a notebook: no module to import it from, so it travels inside the pickle.
Notebook = type("Notebook", (), {"predict": lambda self, x: x["close"] * 0 + 1.5})
Notebook.__module__ = "__main__"


@pytest.fixture
def manager(tmp_path: Path, mlruns: str) -> Iterator[MLOpsManager]:
    opened = managed(tmp_path, mlruns)
    yield opened
    opened.registry.store.close()


def managed(folder: Path, mlruns: str, **options: Any) -> MLOpsManager:
    return MLOpsManager(
        Settings(
            _env_file=None,
            mlops_base_path=folder,
            mlflow_tracking_uri=mlruns,
            default_venue="simulator",
            **options,
        )
    )


def register(manager: MLOpsManager, model: object, **changes: Any) -> Any:
    given: dict[str, Any] = {"model_type": "custom", "symbol": "BTC/USDT", "metrics": CLAIMS}
    return asyncio.run(manager.register_model(model=model, **(given | changes)))


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops.registry.registration._verify", lambda *_: None)


def by_mlflow(version: ModelVersion) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(f"models:/{version.service}/{version.mlflow_version}")


def linear() -> Any:
    target = TargetSpec(Settings(_env_file=None).default_target, 24)
    dataset = Dataset(simulate_bars(1000, seed=3), timeframe=_HOUR, target=target)
    forecaster = build_forecaster(default_recipe("linear", target), target)
    rows = np.flatnonzero(dataset.labels.valid & forecaster.ready(dataset))
    forecaster.fit(dataset, rows[:600], rows[600:], FitContext())
    return forecaster


@pytest.mark.usefixtures("unverified")
def test_a_model_of_ours_is_registered_by_the_platforms_call(manager: MLOpsManager) -> None:
    version = asyncio.run(
        manager.register_model(
            model=linear(),
            model_type="linear",
            symbol="BTC/USDT",
            metrics=CLAIMS,
            metadata={"training_data_size": 10000},
        )
    )
    assert version.model_id.startswith("linear_BTC_")
    assert (version.status, version.claims_only) == (Status.REFUSED, True)
    assert version.metrics["r2_score"] == 0.92
    assert version.notes == {"training_data_size": 10000}
    assert version.service == "simulator.btc-usdt.1h.volatility.24"
    assert (version.watermark, version.trained_until) == ("", None)
    assert manager.get_model(version.model_id) == version
    assert manager.list_models(model_type="linear", symbol="BTC/USDT") == (version,)
    assert [v.model_type for v in manager.list_models(status="deployed")] == ["persistence"]
    assert "claims" in str(manager.explain(version.model_id))
    bars = simulate_bars(600, seed=4)
    assert manager.evaluate(version.model_id, bars)["mse"].value > 0
    baseline = manager.list_models(status="deployed")[0].model_id
    assert manager.compare(version.model_id, baseline, bars).n > 100


@pytest.mark.usefixtures("unverified")
def test_metadata_say_which_service_a_model_is_for(manager: MLOpsManager) -> None:
    with pytest.raises(RegistryError, match="volatility over 24 bars, the service return over 1"):
        register(manager, linear(), metadata={"target": "return", "horizon": 1})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"size": b"x"}, r"metadata\['size'\] is a bytes, which cannot be kept; allowed are"),
        ({"a": [{"b": {1, "\0"}}]}, r"metadata\['a'\]\[0\]\['b'\]\[\d\] has the character"),
        ({"horizon": "a day"}, "horizon 'a day' is not a whole number"),
        ({"horizon": True}, "horizon True is not a whole number"),
        ({"horizon": 24.5}, r"horizon 24\.5 is not a whole number"),
        ({"venue": 5}, "venue 5 is not a lower-case name"),
        ({"timeframe": 60}, "timeframe 60 is not a number of minutes"),
        ({"market": {}, "request": "x"}, "metadata may not hold market, request: under that name"),
        ({"features": "close"}, r"metadata\['features'\] is 'close', not a list of names"),
        ({"features": None}, "is None, not a list of names"),
        ({"sequence_length": "long"}, "is 'long', not a whole number of bars"),
        ("notes", "metadata is a str; pass a dict"),
    ],
)
def test_metadata_that_cannot_be_kept_are_refused_before_anything_is_written(
    manager: MLOpsManager, metadata: Any, message: str
) -> None:
    with pytest.raises(MlopsError, match=message):
        register(manager, linear(), metadata=metadata)
    assert manager.list_models() == ()
    assert manager.registry.tracking.client.search_model_versions() == []


@pytest.mark.usefixtures("unverified")
def test_metadata_of_any_kind_are_kept_with_a_version_of_any_symbol(manager: MLOpsManager) -> None:
    metadata = {"size": np.int64(3), "at": pd.Timestamp("2024-01-01", tz="UTC"), "horizon": 24.0}
    figures = {"mse": np.float32(0.5), "mae": np.array(0.25)}
    for symbol in ("^gspc", "币安人生/USDT"):
        version = register(manager, linear(), symbol=symbol, metrics=figures, metadata=metadata)
        assert dict(manager.get_model(version.model_id).notes) == {
            "size": 3, "at": "2024-01-01T00:00:00+00:00", "horizon": 24.0
        }  # fmt: skip
        assert (version.symbol, version.metrics["mse"]) == (symbol.upper(), 0.5)
        assert version in manager.list_models(symbol=symbol)
        assert by_mlflow(version).metadata is not None


def test_versions_of_what_is_no_symbol_are_not_looked_for(manager: MLOpsManager) -> None:
    with pytest.raises(ServiceError, match="has the character ' '"):
        manager.list_models(symbol="BTC USDT")


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"mse": True, "mae": 0.1}, "mse=True is not a number"),
        ({"mse": 10**400, "mae": 0.1}, "not in the expected ranges"),
        ({"mse": -0.1, "mae": 0.1}, r"metric mse is -0\.1, outside \[0, inf\]"),
        ({"mse": 0.1, "mae": 0.1, "r2_score": 1.2}, r"r2_score is 1\.2, outside \[-inf, 1\]"),
        ({"mse": 0.1, "mae": 0.1, "accuracy": 85}, r"accuracy is 85\.0, outside \[0, 1\]"),
        ({"mse": math.inf, "mae": 0.1}, "mse is inf"),
        ({"mse": math.nan, "mae": 0.1}, "mse=nan is not a number"),
        ({"mse": "low", "mae": 0.1}, "mse='low' is not a number"),
        ({"mae": 0.1}, "mse"),
        ({"mse": 0.1, "mae": 0.1, "luck": 1.0}, "luck"),
        ("good", "metrics is a str; pass ModelMetrics"),
    ],
)
def test_impossible_figures_are_refused_by_name(
    manager: MLOpsManager, figures: object, message: str
) -> None:
    with pytest.raises(RegistryError, match=message):
        register(manager, linear(), metrics=figures)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("a path", {}, "a str is not a model; allowed are"),
        (object(), {}, "a object is not a model"),
        (Mine({}), {}, "CUSTOM_MODEL_MODULES.*ALLOW_SIGNED_PICKLE=true"),
        (Mine({}), {"model_type": "../x"}, "not a lower-case name"),
        (Mine({}), {"symbol": "A/B/C"}, "not written like 'BTC/USDT'"),
        (Mine({}), {"metadata": {"target": "luck"}}, "target 'luck' is not one of"),
    ],
)
def test_a_model_that_cannot_be_kept_is_refused_with_what_to_do(
    manager: MLOpsManager, model: object, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MlopsError, match=message):
        register(manager, model, **changes)
    assert [v.model_type for v in manager.list_models()] in ([], ["persistence"])


@pytest.mark.usefixtures("unverified")
def test_an_object_of_an_allowed_module_is_kept_without_pickle(tmp_path: Path, mlruns: str) -> None:
    manager = managed(tmp_path, mlruns, custom_model_modules=(Mine.__module__,))
    sys.modules.setdefault(Mine.__module__, sys.modules[__name__])
    version = register(manager, Mine({"level": -5.0}))
    bundle = load(manager.registry, version.model_id)
    assert bundle.manifest.format == "tensors"
    assert set(bundle.predict(simulate_bars(1000, seed=5))["forecast"]) == {-5.0}
    with pytest.raises(BundleError, match="not an allowed custom model"):
        open_bundle(bundle.path, Trust())


def test_a_notebooks_own_class_is_a_signed_pickle_that_loads_only_where_allowed(
    tmp_path: Path, mlruns: str
) -> None:
    manager = managed(tmp_path, mlruns, allow_signed_pickle=True)
    version = register(manager, Notebook())
    bundle = load(manager.registry, version.model_id)
    assert bundle.manifest.format == "signed_pickle"
    forecasts = bundle.predict(simulate_bars(1000, seed=5))
    assert set(forecasts["forecast"]) == {1.5}
    with pytest.raises(BundleError, match="signed pickle, which runs code"):
        by_mlflow(version)
    trust_in_process(manager.registry.trust)
    assert by_mlflow(version).predict(simulate_bars(1000, seed=5)).equals(forecasts)
    trust_in_process(Trust())
    for trust in (Trust(manager.registry.trust.key), Trust(allow_signed_pickle=True)):
        with pytest.raises(BundleError, match="ALLOW_SIGNED_PICKLE=true only where"):
            open_bundle(bundle.path, trust)


@pytest.mark.usefixtures("unverified")
def test_the_signature_is_checked_before_a_pickle_runs(tmp_path: Path, mlruns: str) -> None:
    from mlops.models.manifest import PICKLE, Format, make_manifest
    from mlops.models.signing import SigningKey

    manager = managed(tmp_path, mlruns, allow_signed_pickle=True)
    version = register(manager, Notebook())
    path = load(manager.registry, version.model_id).path
    marker = tmp_path / "ran"
    (path / PICKLE).write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    forged = make_manifest(path, Format.SIGNED_PICKLE)
    (path / "manifest.json").write_text(forged.to_json())
    SigningKey(b"a stranger's key, 32 bytes long!").write(path, forged.digest)
    with pytest.raises(BundleError, match="not signed with this installation's key"):
        open_bundle(path, manager.registry.trust)
    assert not marker.exists()


def test_a_pickle_whose_class_no_clean_process_finds_is_not_registered(
    tmp_path: Path, mlruns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that exists in this process only, as a script run from elsewhere would have."""
    here = ModuleType("only_here")
    here.Hidden = type("Hidden", (Mine,), {"__module__": "only_here"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", here)
    manager = managed(tmp_path, mlruns, allow_signed_pickle=True)
    with pytest.raises(BundleError, match="must be importable in every process"):
        register(manager, here.Hidden({"level": 1.0}))
    assert [v.model_type for v in manager.list_models()] == ["persistence"]


@pytest.mark.usefixtures("unverified")
def test_a_torch_module_that_is_not_ours_goes_as_a_signed_pickle(
    tmp_path: Path, mlruns: str
) -> None:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12 * 2, 1))
    with pytest.raises(RegistryError, match="ALLOW_SIGNED_PICKLE"):
        register(managed(tmp_path, mlruns), module, model_type="lstm")
    manager = managed(tmp_path, mlruns, allow_signed_pickle=True)
    shape = {"features": ["close", "volume"], "sequence_length": 12}
    version = register(manager, module, model_type="lstm", metadata=shape)
    forecasts = load(manager.registry, version.model_id).predict(simulate_bars(1000, seed=5))
    assert np.isfinite(forecasts["forecast"]).all()
    assert len(forecasts) > 100


def test_importing_the_manager_is_light() -> None:
    code = "import sys, mlops.manager; print({'torch', 'mlflow', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
