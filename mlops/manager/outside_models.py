"""Models that were trained elsewhere: registered with claims, then judged here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from mlops.errors import DataError, FeatureError, GateError, ModelError
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.manager.opened import Opened, why_of
from mlops.plain_values import plain_notes
from mlops.registry import register_claimed
from mlops.registry.claims import EXAMPLE_BARS
from mlops.service import Service
from mlops.store import ModelVersion, get_version
from mlops.store.audit import SYSTEM
from mlops.store.requests import RequestKey
from mlops.training.outside_judgement import JudgingRules
from mlops.training.outside_versions import JudgedVersion, check_time, judge_version
from mlops.training.service_bars import load_service_bars
from mlops.validation.evidence import Thresholds

log = logging.getLogger(__name__)

TRAINED_UNTIL = "trained_until"
_SERVICE_KEYS = ("venue", "timeframe", "target", "horizon")


class OutsideModels(Opened):
    """Registers models that were trained elsewhere, and judges them."""

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

        With ``trained_until`` in the metadata it is judged too, as `judge_model` does. Where the
        judgement is not possible, it stays registered with its claims, and the log says why.

        Args:
            metrics: Figures as claimed by the caller; no gate has judged them.
            metadata: Kept with the version. Its ``venue``, ``timeframe``, ``target`` and
                ``horizon`` name the service (by default those of the settings); its ``features``
                and ``sequence_length`` say what the model's ``predict`` is given;
                ``trained_until`` is the close of the last bar that it was trained on. Numbers of
                numpy, times, paths and the like are kept as JSON values.
            request: Names the request; a repeated one gets the version of the first.

        Raises:
            RegistryError: when format, size, a figure, a value of the metadata or the disk does
                not allow it; nothing is written then.
            ServiceError: when symbol and metadata name no service.
            GateError: when ``trained_until`` has no zone, or lies in the future.
            BundleError: when a clean process cannot load it or gets other forecasts.
        """
        notes = plain_notes({} if metadata is None else metadata)
        service = self.find_service(symbol, notes)
        until = _read_time(notes.get(TRAINED_UNTIL))
        bars = await asyncio.to_thread(self._find_bars, service, until)
        version = await asyncio.to_thread(
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
            bars=bars,
        )
        if until is None or version.judged_on is not None:
            return version
        try:
            return await self.judge_model(version.model_id, trained_until=until, actor=actor)
        except (DataError, FeatureError, GateError, ModelError) as error:
            log.warning(
                "%s is registered and was not judged: %s", version.model_id, error,
                extra={"service": version.service, "model_id": version.model_id},
            )  # fmt: skip
            return version

    def find_service(self, symbol: str, notes: Mapping[str, Any]) -> Service:
        """The service that a symbol and the notes of a model name.

        Raises:
            ServiceError: when they name none.
        """
        parts = {key: notes[key] for key in _SERVICE_KEYS if key in notes}
        return self.config.service(symbol, **parts)

    async def judge_model(
        self,
        model_id: str,
        trained_until: datetime | str | None = None,
        bars: pd.DataFrame | None = None,
        *,
        actor: str = "",
        reason: str = "",
    ) -> ModelVersion:
        """Put a version from elsewhere before the gates; returns it with verdict and figures.

        Where enough of its forecasts are on record here, such as a shadow's, those are judged.
        Else it is judged on the bars after ``trained_until``, and report, card and `explain` say
        that this time is the caller's word: a version that passed so goes live by a person only.
        Each judgement counts as one more trial of the service.

        Args:
            trained_until: The close of the last bar that it was trained on, an aware time or ISO
                8601 text.
            bars: Bars of another origin than the service's own, as a frame. Their digest and
                origin are kept, and the version stays `refused`, whatever the verdict.

        Raises:
            VersionNotFound: when there is no such version.
            RegistryError: when it was trained here, or its verdict rests on more than this one
                would.
            GateError: when the time is none, or there is too little to judge by.
            DataError: when the bars cannot be loaded or used.
            ModelError: when the version cannot forecast them.
        """
        until = _read_time(trained_until)
        why = why_of(actor, reason or "judged by the gates")
        rules = JudgingRules(
            thresholds=Thresholds.of(self.config),
            fee_bps=self.config.fee_for(get_version(self.store, model_id).symbol),
            yearly_alpha=self.config.yearly_alpha_budget,
        )
        judged = await asyncio.to_thread(
            judge_version,
            self.registry,
            self.config,
            model_id,
            trained_until=until,
            bars=bars,
            rules=rules,
            why=why,
        )
        await asyncio.to_thread(self._show_judgement, judged)
        return judged.version

    def _find_bars(self, service: Service, until: datetime | None) -> Dataset | None:
        """The service's own bars for golden examples and drift; None where they cannot be had.

        Without a time only bars that are here already are taken.
        """
        if until is None:
            return self._find_kept_bars(service)
        check_time(until, datetime.now(UTC))
        try:
            return load_service_bars(
                self.store,
                self.config,
                service,
                since=until,
                history=EXAMPLE_BARS,
                now=datetime.now(UTC),
            )
        except DataError as error:
            log.warning(
                "service=%s its own bars cannot be had: %s", service.key, error,
                extra={"service": service.key},
            )  # fmt: skip
            return None

    def _find_kept_bars(self, service: Service) -> Dataset | None:
        known = self.installation.open_recent_bars().load(service)
        if known is None or len(known.frame) < EXAMPLE_BARS // 2:
            return None
        return Dataset(
            known.frame,
            timeframe=service.timeframe,
            target=TargetSpec(service.target, service.horizon),
            calendar=known.market.calendar,
        )

    def _show_judgement(self, judged: JudgedVersion) -> None:
        """Draw the version's card, and set MLflow's tags and aliases."""
        # Imported late: drawing imports matplotlib.
        from mlops.reports.cards import save_card
        from mlops.reports.judged_cards import judged_card_section

        version = judged.version
        card: Path = save_card(
            judged_card_section(judged), self.config.reports_path, version.model_id
        )
        log.info(
            "judged model_id=%s status=%s: %s; card %s",
            version.model_id, version.status, judged.basis.text, card,
            extra={"service": version.service, "model_id": version.model_id},
        )  # fmt: skip
        self.deployer.mirror_to_mlflow(version.service)


def _read_time(value: object) -> datetime | None:
    """A time of a call or of metadata; None for None.

    Raises:
        GateError: when it is none.
    """
    if value is None or isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(str(value))
    except ValueError as error:
        raise GateError(
            f"trained_until={value!r} is no time; pass an aware datetime or ISO 8601 text such as "
            "2024-05-01T00:00:00Z"
        ) from error
