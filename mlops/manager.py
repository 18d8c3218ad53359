"""The platform's face: one object in the platform's words over registry and store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mlops.data.calendar import calendar_for
from mlops.data.load import load_bars
from mlops.data.simulator import simulate_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.registry import (
    Comparison,
    Explanation,
    Period,
    Registry,
    claimed_candidate,
    compare_versions,
    ensure_service,
    evaluate_version,
    explain,
    open_registry,
    register,
)
from mlops.service import Service
from mlops.settings import Settings
from mlops.store import ModelVersion, Why, get_version, list_versions
from mlops.validation.evaluation import Evaluation

log = logging.getLogger(__name__)

EXAMPLE_BARS = 3000
EXAMPLE_SEED = 0
_EXAMPLE_START = datetime(2024, 1, 1, tzinfo=UTC)
_SERVICE_KEYS = ("venue", "timeframe", "target", "horizon")


class MLOpsManager:
    """Register models and look them up; store and MLflow are opened on first use."""

    def __init__(self, config: Settings) -> None:
        self.config = config

    @cached_property
    def registry(self) -> Registry:
        """The open registry, for what has no word of its own here."""
        config = self.config
        return open_registry(
            base_path=config.mlops_base_path,
            store_url=config.database_url,
            tracking_uri=config.tracking_uri,
            experiment=config.mlflow_experiment_name,
            custom_modules=config.custom_model_modules,
            allow_signed_pickle=config.allow_signed_pickle,
        )

    async def register_model(
        self,
        model: object,
        model_type: str,
        symbol: str,
        metrics: object,
        metadata: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Register a model brought from elsewhere; ``metrics`` are claims until a gate judges.

        ``metadata`` is kept with the version; its ``venue``, ``timeframe``, ``target`` and
        ``horizon`` say which service it is for (else the defaults), its ``features`` and
        ``sequence_length`` what the model's ``predict`` is given.

        Raises:
            RegistryError: when format, size, a figure or the disk does not allow it.
            BundleError: when a clean process cannot load it or gets other forecasts.
        """
        notes = dict(metadata or {})
        given = {key: notes[key] for key in _SERVICE_KEYS if key in notes}
        service = self.config.service(symbol, **given)
        return await asyncio.to_thread(self._register, model, model_type, service, metrics, notes)

    def list_models(
        self,
        *,
        model_type: str | None = None,
        symbol: str | None = None,
        status: str | None = None,
    ) -> tuple[ModelVersion, ...]:
        """The versions that match every word given, newest first."""
        return list_versions(
            self.registry.store, model_type=model_type, symbol=symbol, status=status
        )

    def get_model(self, model_id: str) -> ModelVersion:
        """One version.

        Raises:
            VersionNotFound: when there is no such version.
        """
        return get_version(self.registry.store, model_id)

    def explain(self, model_id: str) -> Explanation:
        """Why a version passed or was refused, on what data, by which code."""
        return explain(self.registry, model_id)

    def evaluate(
        self, model_id: str, bars: pd.DataFrame, *, period: Period | None = None
    ) -> Evaluation:
        """Any version on any period of its service's bars."""
        symbol = self.get_model(model_id).symbol
        fee = self.config.fee_for(symbol)
        return evaluate_version(
            self.registry, model_id, bars, fee_bps=fee, period=period or Period()
        )

    def compare(
        self, a: str, b: str, bars: pd.DataFrame, *, period: Period | None = None
    ) -> Comparison:
        """Two versions of one service on the same bars."""
        fee = self.config.fee_for(self.get_model(a).symbol)
        return compare_versions(self.registry, a, b, bars, fee_bps=fee, period=period or Period())

    def _register(
        self,
        model: object,
        model_type: str,
        service: Service,
        metrics: object,
        notes: Mapping[str, Any],
    ) -> ModelVersion:
        dataset, source = example_bars(service, self.config.bars_path)
        candidate = claimed_candidate(
            model,
            model_type=model_type,
            service=service,
            metrics=metrics,
            dataset=dataset,
            trust=self.registry.trust,
            notes=notes,
        )
        # The facade's only clock: it names the version, and no verdict rests on it.
        why = Why(datetime.now(UTC), reason=f"registered by its caller; examples from {source}")
        ensure_service(self.registry, service, dataset, why)
        return register(self.registry, candidate, why)


def example_bars(service: Service, cache_root: Path) -> tuple[Dataset, str]:
    """Bars for golden examples, which prove loading and not skill: embedded, else simulated."""
    calendar = calendar_for(service.venue, service.symbol)
    if service.venue == "sample":
        frame, source = (
            load_bars(service, cache_root=cache_root).frame.iloc[-EXAMPLE_BARS:],
            "sample",
        )
    else:
        frame = simulate_bars(
            EXAMPLE_BARS, seed=EXAMPLE_SEED, timeframe=service.timeframe.name, start=_EXAMPLE_START
        )
        calendar, source = calendar_for("simulator", service.symbol), "the simulator"
    target = TargetSpec(service.target, service.horizon)
    return Dataset(frame, timeframe=service.timeframe, target=target, calendar=calendar), source
