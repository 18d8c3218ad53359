"""How old the newest bar of a market is, by the bars it could have traded since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from mlops.data.calendar import calendar_for
from mlops.service import Service

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class NewestBar:
    """When the newest complete bar closed, None where there is none; ``now`` is market time."""

    closed_at: datetime | None
    now: datetime

    def is_stale(self, service: Service, *, max_age_bars: float) -> bool:
        """Whether it is older than so many bars, and the market has traded since.

        A market that is closed makes nothing stale: after a weekend the count begins anew.
        """
        if self.closed_at is None:
            return True
        if self.now - self.closed_at <= max_age_bars * service.timeframe.step:
            return False
        return self.missed(service) >= max(1, int(max_age_bars))

    def missed(self, service: Service) -> int:
        """Bars that the market could trade and that have closed since the newest one."""
        if self.closed_at is None:
            return 0
        calendar = calendar_for(service.venue, service.symbol)
        opened = pd.Timestamp(self.closed_at)
        last = pd.Timestamp(self.now - service.timeframe.step)
        return len(calendar.expected_opens(opened, last + _INSTANT, service.timeframe))
