"""Models that were trained elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mlops.manager.opened import Opened
from mlops.plain_values import plain_notes
from mlops.registry import register_claimed
from mlops.service import Service
from mlops.store import ModelVersion
from mlops.store.audit import SYSTEM
from mlops.store.requests import RequestKey

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
        *,
        actor: str = SYSTEM,
        request: RequestKey | None = None,
    ) -> ModelVersion:
        """Register a model that was trained elsewhere.

        Args:
            metrics: Figures as claimed by the caller; no gate has judged them.
            metadata: Kept with the version. Its ``venue``, ``timeframe``, ``target`` and
                ``horizon`` name the service (by default those of the settings); its ``features``
                and ``sequence_length`` say what the model's ``predict`` is given. Numbers of
                numpy, times, paths and the like are kept as JSON values.
            request: Names the request; a repeated one gets the version of the first.

        Raises:
            RegistryError: when format, size, a figure, a value of the metadata or the disk does
                not allow it; nothing is written then.
            ServiceError: when symbol and metadata name no service.
            BundleError: when a clean process cannot load it or gets other forecasts.
        """
        notes = plain_notes({} if metadata is None else metadata)
        service = self.find_service(symbol, notes)
        return await asyncio.to_thread(
            register_claimed,
            self.registry,
            model,
            model_type=model_type,
            service=service,
            metrics=metrics,
            notes=notes,
            bars_root=self.config.bars_path,
            actor=actor,
            request=request,
        )

    def find_service(self, symbol: str, notes: Mapping[str, Any]) -> Service:
        """The service that a symbol and the notes of a model name.

        Raises:
            ServiceError: when they name none.
        """
        parts = {key: notes[key] for key in _SERVICE_KEYS if key in notes}
        return self.config.service(symbol, **parts)
