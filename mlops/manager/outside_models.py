"""Models that were trained elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mlops.manager.opened import Opened
from mlops.plain_values import plain_notes
from mlops.registry import register_claimed
from mlops.store import ModelVersion

_SERVICE_KEYS = ("venue", "timeframe", "target", "horizon")


class OutsideModels(Opened):
    """Registers models that were trained elsewhere."""

    async def register_model(
        self,
        model: object,
        model_type: str,
        symbol: str,
        metrics: object,
        metadata: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Register a model that was trained elsewhere.

        Args:
            metrics: Figures as claimed by the caller; no gate has judged them.
            metadata: Kept with the version. Its ``venue``, ``timeframe``, ``target`` and
                ``horizon`` name the service (by default those of the settings); its ``features``
                and ``sequence_length`` say what the model's ``predict`` is given. Numbers of
                numpy, times, paths and the like are kept as JSON values.

        Raises:
            RegistryError: when format, size, a figure, a value of the metadata or the disk does
                not allow it; nothing is written then.
            ServiceError: when symbol and metadata name no service.
            BundleError: when a clean process cannot load it or gets other forecasts.
        """
        notes = plain_notes({} if metadata is None else metadata)
        parts = {key: notes[key] for key in _SERVICE_KEYS if key in notes}
        service = self.config.service(symbol, **parts)
        return await asyncio.to_thread(
            register_claimed,
            self.registry,
            model,
            model_type=model_type,
            service=service,
            metrics=metrics,
            notes=notes,
            bars_root=self.config.bars_path,
        )
