"""The market of a service: where its bars come from, when it trades, and whose time it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from mlops.data.calendar import Calendar, calendar_for, load_calendar
from mlops.data.file_options import BarsChoice
from mlops.service import Service, Timeframe
from mlops.settings import FileClock

SAMPLE_VENUE = "sample"
"""The venue of the embedded samples, whose time is replayed."""


@dataclass(frozen=True, slots=True)
class Market:
    """When a service's market trades, what time it keeps, and the file of its bars.

    Args:
        clock: ``wall`` unless the bars are replayed or end with a file.
        choice: What the caller of the first training said of the bars.
        from_file: Whether the bars come from ``choice.bars_file`` and not from the venue.
    """

    timeframe: Timeframe
    calendar: Calendar
    clock: FileClock
    choice: BarsChoice
    from_file: bool

    @classmethod
    def of(cls, service: Service, choice: BarsChoice | None = None) -> Market:
        """The market of a service by what was chosen for it; by default its venue's own.

        Raises:
            BarsError: when no calendar has the chosen name.
        """
        chosen = choice or BarsChoice()
        from_file = chosen.bars_file is not None and chosen.file_clock is not None
        replayed = service.venue == SAMPLE_VENUE
        own_clock = FileClock.REPLAY if replayed else FileClock.WALL
        return cls(
            timeframe=service.timeframe,
            calendar=load_calendar(chosen.calendar)
            if chosen.calendar
            else calendar_for(service.venue, service.symbol),
            clock=(chosen.file_clock or own_clock) if from_file else own_clock,
            choice=chosen,
            from_file=from_file,
        )

    @property
    def is_live(self) -> bool:
        """Whether market time is the time of the day, so that a missing bar is a late one."""
        return self.clock is FileClock.WALL
