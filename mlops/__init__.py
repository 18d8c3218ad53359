"""Train, judge, roll out and monitor trading models; each name is imported on first use.

`mlops_config` is the configuration of this process, read from the environment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlops.data.bars import Bars, QualityReport, validate_bars
    from mlops.data.load import load_bars
    from mlops.errors import MlopsError
    from mlops.features.indicators import register_indicator
    from mlops.manager import MLOpsManager
    from mlops.rollout.plan import DeploymentConfig, RolloutSettings, Strategy
    from mlops.search.config import ModelType, TrainingConfig
    from mlops.service import Service, Target, Timeframe
    from mlops.settings import Settings
    from mlops.stats.metrics import ModelMetrics
    from mlops.store import ModelVersion
    from mlops.validation.evaluation import Evaluation
    from mlops.validation.report import GateReport

    mlops_config: Settings

__all__ = [
    "Bars",
    "DeploymentConfig",
    "Evaluation",
    "GateReport",
    "MLOpsManager",
    "MlopsError",
    "ModelMetrics",
    "ModelType",
    "ModelVersion",
    "QualityReport",
    "RolloutSettings",
    "Service",
    "Settings",
    "Strategy",
    "Target",
    "Timeframe",
    "TrainingConfig",
    "load_bars",
    "mlops_config",
    "register_indicator",
    "validate_bars",
]

_HOMES = {
    "mlops.data.bars": ("Bars", "QualityReport", "validate_bars"),
    "mlops.data.load": ("load_bars",),
    "mlops.errors": ("MlopsError",),
    "mlops.features.indicators": ("register_indicator",),
    "mlops.manager": ("MLOpsManager",),
    "mlops.rollout.plan": ("DeploymentConfig", "RolloutSettings", "Strategy"),
    "mlops.service": ("Service", "Target", "Timeframe"),
    "mlops.settings": ("Settings",),
    "mlops.stats.metrics": ("ModelMetrics",),
    "mlops.store": ("ModelVersion",),
    "mlops.search.config": ("ModelType", "TrainingConfig"),
    "mlops.validation.evaluation": ("Evaluation",),
    "mlops.validation.report": ("GateReport",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "mlops_config":
        return import_module("mlops.settings").current_settings()
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'mlops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
