"""The package's face: exactly the promised names, and nothing heavy behind the import."""

import subprocess
import sys

import mlops

PROMISED = {
    "Bars", "DeploymentConfig", "Evaluation", "GateReport", "MLOpsManager", "MlopsError",
    "ModelMetrics", "ModelType", "ModelVersion", "QualityReport", "RolloutSettings", "Service",
    "Settings", "Strategy", "Target", "Timeframe", "TrainingConfig", "load_bars", "mlops_config",
    "register_indicator", "validate_bars",
}  # fmt: skip


def test_the_package_exports_exactly_the_promised_names():
    assert set(mlops.__all__) == PROMISED
    assert all(getattr(mlops, name) is not None for name in PROMISED)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(mlops, "MLOpsPipeline")


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "mlflow", "prefect", "pandas")
    code = f"import mlops, sys; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
