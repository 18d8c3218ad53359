"""Why champion or challenger of a route has no forecast of a bar, stored by way of the spool.

    failed on the bar              -> at once: a version that failed is not asked again
    not loaded, or no time for it  -> when the next bar is there: until then it may still forecast

Where the bar has a forecast of the version, this replica's or another's, nothing is written. While
the store is away that is unknown; readers take a gap for one only where the forecast is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from mlops.errors import ModelFault, StoreError
from mlops.rollout.routing import takes_part
from mlops.serving.forecast_spool import ForecastSpool
from mlops.store import Route, Store, list_forecasts
from mlops.store.ab_tests import ForecastGap, GapReason

_INSTANT = timedelta(microseconds=1)


def list_arms(route: Route, replica_id: str) -> tuple[str, ...]:
    """The versions that each forecast every bar in this replica: the champion and a challenger."""
    own = route.challenger if takes_part(route, replica_id) else None
    return (route.champion,) if own is None else (route.champion, own)


def reason_of_fault(fault: ModelFault) -> GapReason:
    """The reason of the gap that a version's fault leaves."""
    return GapReason.TIME_BUDGET if fault.kind == "timeout" else GapReason.FAULT


class GapRecorder:
    """Writes gaps of one replica.

    Args:
        is_store_away: Whether the store may not answer, so that it is not asked for forecasts.
    """

    def __init__(
        self,
        *,
        replica_id: str,
        store: Store,
        spool: ForecastSpool,
        is_store_away: Callable[[], bool],
    ) -> None:
        self.replica_id = replica_id
        self.store = store
        self.spool = spool
        self.is_store_away = is_store_away

    def record(self, service: str, bar: datetime, reasons: Mapping[str, GapReason]) -> bool:
        """Write the gaps of a bar, except of versions whose forecast of it is stored.

        Args:
            bar: Open time of the bar, UTC.
            reasons: Why each of these versions has no forecast from this replica.

        Returns:
            False where the spool has no room.
        """
        if not reasons:
            return True
        stored, at = self._read_forecast_by(service, bar), datetime.now(UTC)
        gaps = [
            ForecastGap(service, bar, model_id, reason, self.replica_id, at)
            for model_id, reason in reasons.items()
            if model_id not in stored
        ]
        return not gaps or self.spool.put(gaps)

    def _read_forecast_by(self, service: str, bar: datetime) -> set[str]:
        """The versions whose forecast of the bar is stored; none while the store is away."""
        if self.is_store_away():
            return set()
        try:
            rows = list_forecasts(self.store, service, role=None, since=bar, until=bar + _INSTANT)
        except StoreError:
            return set()
        return {row.model_id for row in rows}
