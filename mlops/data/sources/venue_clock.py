"""The time of a venue, by its own answers: a bar is complete when the venue says so.

This machine's clock may be wrong or jump. Each answer of a venue tells its time; between two
answers the monotonic clock of this process carries it on. Where both agree, the machine's clock
counts, because answers tell whole seconds only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

log = logging.getLogger(__name__)

TOLERANCE_S = 2.0
"""Clocks that differ by less count as equal."""

ASK_AGAIN_S = 60.0
"""Seconds between two questions for the venue's time while the clocks differ."""

MOST_BEHIND_S = 86_400.0
"""A venue's time that is further ahead of this machine's is not used: a part-formed bar would count
as complete if it were wrong."""


@dataclass(slots=True)
class VenueClock:
    """The clock of one venue, as one process knows it."""

    venue: str
    _told_s: float | None = None
    _asked_s: float = 0.0
    _received_s: float = 0.0
    _questioned_s: float = field(default=-ASK_AGAIN_S)
    _logged: bool = False

    def note(self, told_s: float, asked_s: float) -> None:
        """Keep the time that an answer told.

        Args:
            told_s: The venue's time, seconds since 1970 (UTC), full seconds or finer.
            asked_s: The `time.monotonic` second at which the request was sent.
        """
        self._told_s, self._asked_s, self._received_s = told_s, asked_s, time.monotonic()

    def correct(self, wall: datetime, ask: Callable[[], object]) -> datetime:
        """The venue's time now.

        Args:
            wall: The time by this machine's clock.
            ask: Asks the venue for its time and has it noted; called where the clocks differ, since
                a process that was suspended has lost time too.
        """
        if self._skew_s(wall) and time.monotonic() - self._questioned_s >= ASK_AGAIN_S:
            self._questioned_s = time.monotonic()
            ask()
        skew_s = self._skew_s(wall)
        self._log(skew_s)
        return wall + timedelta(seconds=skew_s)

    def _skew_s(self, wall: datetime) -> float:
        """Seconds by which the venue is ahead of ``wall``; 0 where they agree or it is unknown."""
        if self._told_s is None:
            return 0.0
        now_s = time.monotonic()
        # The time was read between sending the request and receiving the answer.
        least = self._told_s + (now_s - self._received_s) - wall.timestamp()
        most = self._told_s + 1.0 + (now_s - self._asked_s) - wall.timestamp()
        if (least <= TOLERANCE_S and most >= -TOLERANCE_S) or least > MOST_BEHIND_S:
            return 0.0
        return least

    def _log(self, skew_s: float) -> None:
        if skew_s and not self._logged:
            log.warning(describe_skew(self.venue, skew_s))
        self._logged = bool(skew_s)


def describe_skew(venue: str, skew_s: float) -> str:
    """Says by how much this machine's clock is wrong; empty where it is right."""
    if not skew_s:
        return ""
    direction = "behind" if skew_s > 0 else "ahead of"
    return (
        f"this machine's clock is {abs(skew_s):.0f} s {direction} that of {venue}, by whose time "
        "bars are complete; set the clock, for instance by NTP"
    )
