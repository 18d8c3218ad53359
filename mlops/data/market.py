"""The market of a service: where its bars come from, when it trades, and whose time it keeps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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


def resolve_choice(choice: BarsChoice, service: Service, clock: FileClock) -> BarsChoice:
    """The choice as every other process can read it: a whole path, and a clock for the file.

    A service of an exchange that is trained on a file keeps the exchange's own bars, unless the
    choice names a ``file_clock``.

    Args:
        clock: The clock of a file for which the choice names none.
    """
    if choice.bars_file is None:
        return choice
    path = Path(os.path.expandvars(choice.bars_file)).expanduser().absolute()
    keeps_venue = choice.file_clock is None and _is_exchange(service.venue)
    chosen_clock = None if keeps_venue else choice.file_clock or clock
    return choice.model_copy(update={"bars_file": str(path), "file_clock": chosen_clock})


def _is_exchange(venue: str) -> bool:
    from mlops.data.sources.exchange import is_exchange

    return venue not in ("file", "simulator", SAMPLE_VENUE) and is_exchange(venue)
