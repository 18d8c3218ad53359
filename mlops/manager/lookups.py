"""Versions looked up, explained, traced, evaluated and compared."""

from __future__ import annotations

from typing import Unpack

import pandas as pd

from mlops.data.time_columns import TimeArguments
from mlops.manager.opened import Opened
from mlops.registry import (
    Comparison,
    Explanation,
    Period,
    compare_versions,
    evaluate_version,
    explain,
)
from mlops.registry.version_history import Lineage, trace
from mlops.store import ModelVersion, Status, get_version, list_versions
from mlops.store.operations import Operation, get_operation
from mlops.store.pages import Page, Position
from mlops.store.version_pages import VersionSummary, list_version_page
from mlops.symbols import spell_symbol
from mlops.validation.evaluation import Evaluation


class LookUps(Opened):
    """Looks versions up; changes nothing."""

    def trace(self, model_id: str) -> Lineage:
        """The history of a version, from the monitor's look that asked for it to its routes.

        Raises:
            VersionNotFound: when there is no such version.
            StoreError: when a row names another that does not exist.
        """
        return trace(self.store, model_id)

    def list_models(
        self,
        *,
        model_type: str | None = None,
        symbol: str | None = None,
        status: str | None = None,
    ) -> tuple[ModelVersion, ...]:
        """The versions that match every argument given, newest first.

        Raises:
            ServiceError: when the symbol is none.
        """
        spelt = None if symbol is None else spell_symbol(symbol)
        return list_versions(self.store, model_type=model_type, symbol=spelt, status=status)

    def model_page(
        self,
        *,
        model_type: str | None = None,
        symbol: str | None = None,
        status: Status | None = None,
        service: str | None = None,
        after: Position | None = None,
        limit: int = 50,
    ) -> Page[VersionSummary]:
        """As `list_models`, a page at a time and without the reports and notes of the versions.

        Args:
            after: The ``next`` of the page before; None for the first page.
            limit: Most versions of the page.

        Raises:
            ServiceError: when the symbol is none.
        """
        spelt = None if symbol is None else spell_symbol(symbol)
        return list_version_page(
            self.store,
            service=service,
            model_type=model_type,
            symbol=spelt,
            status=status,
            after=after,
            limit=limit,
        )

    def get_model(self, model_id: str) -> ModelVersion:
        """One version.

        Raises:
            VersionNotFound: when there is no such version.
        """
        return get_version(self.store, model_id)

    def get_operation(self, operation_id: str) -> Operation:
        """Work that a request began and whose result is asked for later.

        Raises:
            OperationNotFound: when there is no such operation.
        """
        return get_operation(self.store, operation_id)

    def explain(self, model_id: str) -> Explanation:
        """Why a version passed or was refused, on what data, by which code."""
        return explain(self.registry, model_id)

    def evaluate(
        self,
        model_id: str,
        bars: pd.DataFrame,
        *,
        period: Period | None = None,
        **written: Unpack[TimeArguments],
    ) -> Evaluation:
        """Evaluate a version on a period of its service's bars, by default on all of them.

        ``written`` says how the time of the bars is written, as in `monitor_model_drift`.
        """
        symbol = self.get_model(model_id).symbol
        fee = self.config.fee_for(symbol)
        return evaluate_version(
            self.registry, model_id, bars, fee_bps=fee, period=period or Period(), **written
        )

    def compare(
        self,
        a: str,
        b: str,
        bars: pd.DataFrame,
        *,
        period: Period | None = None,
        **written: Unpack[TimeArguments],
    ) -> Comparison:
        """Evaluate two versions of one service on the same bars.

        ``written`` says how the time of the bars is written, as in `monitor_model_drift`.
        """
        fee = self.config.fee_for(self.get_model(a).symbol)
        return compare_versions(
            self.registry, a, b, bars, fee_bps=fee, period=period or Period(), **written
        )
