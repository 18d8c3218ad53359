"""What was found of the rows of bars: counts and first dates, and how much is too much.

A training logs its findings, judges them in gate G0 and keeps them with the version that it
makes, so that whoever reads the version sees what was dropped, merged or suspected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

import pandas as pd

from mlops.data.bars import Bars, QualityReport

MAX_DOUBTFUL_SHARE = 0.01
"""Largest share of rows that may be dropped as unusable, merged, or suspected of an error.

Hourly series of large markets have less than 0.01 % of them. At 1 % every fifth window of 24 bars
holds one, so that a model learns the errors.
"""

MIN_COMPLETENESS = 0.5
"""Least share of the bars that the market could have traded; below it holes are the rule."""

DATES_KEPT = 3
"""First dates that are kept of each kind."""

SPLIT, BAD_PRINT = "split", "bad print"

_HARMLESS = frozenset({"duplicate", "not_closed"})
"""Reasons to drop a row that leave no doubt in the bars: nothing is lost with these rows."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """How often a kind of finding was met, and the first opens (UTC) at which it was."""

    count: int
    first: tuple[datetime, ...] = ()

    @classmethod
    def of(cls, opens: Sequence[pd.Timestamp]) -> Self:
        """All bars of a kind, of which the first `DATES_KEPT` are kept."""
        return cls(len(opens), tuple(one.to_pydatetime() for one in opens[:DATES_KEPT]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What one reading of bars found.

    Args:
        rows_in: Rows that were read.
        rows_out: Bars that were made of them, opened from ``begins`` to ``ends`` (UTC).
        calendar: The name of the calendar by which holes were found.
        dropped: By reason, the rows of which no bar was made.
        suspected: By kind, bars that look like errors; they were left as they are.
        rebuilt: By kind, bars whose values or stamps are not those that were first read.
        missing: Bars that the market could have traded, in all ``holes`` together.
        completeness: Share of the tradable bars that are present, 0 to 1.
        flat: Bars whose high equals their low.
        warnings: Sentences of the source and of the rules by which rows become bars.
    """

    rows_in: int
    rows_out: int
    begins: datetime
    ends: datetime
    calendar: str
    dropped: Mapping[str, Sighting]
    suspected: Mapping[str, Sighting]
    rebuilt: Mapping[str, Sighting]
    holes: Sighting
    missing: int
    completeness: float
    flat: int
    reordered: bool
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, bars: Bars) -> Self:
        """The findings of the reading that gave these bars."""
        quality, opened = bars.quality, bars.frame.index
        suspected = {SPLIT: quality.suspected_splits, BAD_PRINT: quality.bad_prints}
        return cls(
            rows_in=quality.rows_in,
            rows_out=quality.rows_out,
            begins=opened[0].to_pydatetime(),
            ends=opened[-1].to_pydatetime(),
            calendar=bars.calendar.name,
            dropped={
                reason: Sighting(count, _first_date(quality, reason))
                for reason, count in quality.dropped.items()
                if count
            },
            suspected={kind: Sighting.of(seen) for kind, seen in suspected.items() if seen},
            rebuilt={kind: Sighting(count) for kind, count in quality.rebuilt.items() if count},
            holes=Sighting.of([hole.start for hole in quality.holes]),
            missing=sum(hole.bars for hole in quality.holes),
            completeness=quality.completeness,
            flat=quality.flat_bars,
            reordered=quality.reordered,
            warnings=quality.warnings,
        )

    @property
    def rows_judged(self) -> int:
        """Rows of the period asked for, without those whose loss leaves no doubt in the bars."""
        return self.rows_out + self.unusable

    @property
    def doubtful_share(self) -> float:
        """Share of rows dropped as unusable or merged, plus that of suspected bars, 0 to 1."""
        return self.unusable / self.rows_judged + self.suspected_bars / self.rows_out

    @property
    def unusable(self) -> int:
        """Rows that were dropped or merged and leave a doubt."""
        return sum(seen.count for kind, seen in self.dropped.items() if kind not in _HARMLESS)

    @property
    def suspected_bars(self) -> int:
        """Bars that look like errors, of all kinds together."""
        return sum(seen.count for seen in self.suspected.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = _to_json(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back, exactly."""
        kinds = ("dropped", "suspected", "rebuilt")
        read: dict[str, Any] = dict(values)
        read |= {
            name: {kind: _read_sighting(seen) for kind, seen in values[name].items()}
            for name in kinds
        }
        read |= {name: datetime.fromisoformat(values[name]) for name in ("begins", "ends")}
        read |= {"holes": _read_sighting(values["holes"]), "warnings": tuple(values["warnings"])}
        return cls(**read)


def _first_date(quality: QualityReport, reason: str) -> tuple[datetime, ...]:
    first = quality.first_dropped.get(reason)
    return () if first is None else (first.to_pydatetime(),)


def _read_sighting(values: Mapping[str, Any]) -> Sighting:
    dates = tuple(datetime.fromisoformat(one) for one in values["first"])
    return Sighting(values["count"], dates)


def _to_json(value: Any) -> Any:
    """Nested values as JSON has them: times as ISO text, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
