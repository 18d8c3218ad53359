"""The answers that pages poll, each built at most once in its time."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from mlops.api.overview_documents import DashboardDocument, OverviewDocument
from mlops.api.snapshot import Snapshots
from mlops.manager import MLOpsManager

DASHBOARD_S, LIVE_S = 5.0, 1.0
"""For how long an answer is given without a look at the store."""


class PolledAnswers:
    """The dashboard, and the overview by page of services."""

    def __init__(self, manager: MLOpsManager) -> None:
        self._manager = manager
        moved = manager.read_movement
        self.dashboard = Snapshots(self._build_dashboard, moved, seconds=DASHBOARD_S)
        self.live = Snapshots(self._build_live, moved, seconds=LIVE_S, timeless="at")

    def _build_dashboard(self, question: str | None) -> dict[str, Any]:
        return DashboardDocument.of(self._manager.dashboard()).model_dump(mode="json")

    def _build_live(self, after: str | None) -> dict[str, Any]:
        return OverviewDocument.of(self._manager.overview(after=after)).model_dump(mode="json")


def get_polled(request: Request) -> PolledAnswers:
    """The polled answers of the application; called by routes, for a dependency costs as much."""
    polled: PolledAnswers = request.app.state.polled
    return polled
