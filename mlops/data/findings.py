"""What was found of the rows of bars: counts, first dates, sentences, and how much is too much.

A training logs its findings, judges them in gate G0 and keeps them with the version that it
makes, so that whoever reads the version sees what was dropped, merged or suspected.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

import pandas as pd

from mlops.data.bars import Bars, QualityReport
from mlops.errors import BarsError

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

_SENTENCES: Mapping[str, str] = {
    "duplicate": "repeated the stamp of another row; one row of each stamp was kept",
    "re_read": "were other readings of a bar and were merged",
    "conflicting": "contradicted another row of their stamp, which fits its neighbours better",
    "not_closed": "came before the close of their bar and were left out",
    "invalid": "broke the rules of a bar; each left a hole",
    "revised": "had other values when the venue was asked again; the newer ones count",
    "shifted": "came with the stamp of their close and got that of their open",
    SPLIT: "began a lasting step of the price on ordinary turnover, as a split does",
    BAD_PRINT: "reached far beyond both neighbours, as a bad print does",
}
"""By kind, what follows the counts in its sentence."""

_HARMLESS = frozenset({"duplicate", "not_closed"})
"""Reasons to drop a row that leave no doubt in the bars: nothing is lost with these rows."""

_QUIET = frozenset({"not_closed", "shifted"})
"""Kinds that every sound series may have, which are no warning."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sighting:
    """How often a kind of finding was met, and the first opens (UTC) at which it was."""

    count: int
    first: tuple[datetime, ...] = ()

    @classmethod
    def of(cls, opens: Sequence[pd.Timestamp]) -> Self:
        """All bars of a kind, of which the first `DATES_KEPT` are kept."""
        return cls(len(opens), tuple(one.to_pydatetime() for one in opens[:DATES_KEPT]))


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of finding in a sentence; ``is_odd`` where a person should look at it."""

    kind: str
    text: str
    is_odd: bool = False


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
        """Rows that were read, without those whose loss leaves no doubt in the bars."""
        lost = sum(seen.count for kind, seen in self.dropped.items() if kind in _HARMLESS)
        return self.rows_in - lost

    @property
    def doubtful_share(self) -> float:
        """Share of rows dropped as unusable or merged, plus that of suspected bars, 0 to 1."""
        return self._unusable / self.rows_judged + self._suspected / self.rows_out

    @property
    def doubt(self) -> str:
        """How many rows and bars are doubtful, in a sentence."""
        return (
            f"{self._unusable:,} of {self.rows_judged:,} rows were dropped or merged and "
            f"{self._suspected:,} of {self.rows_out:,} bars are suspected of an error "
            f"({self.doubtful_share:.2%} together)"
        )

    @property
    def _unusable(self) -> int:
        return sum(seen.count for kind, seen in self.dropped.items() if kind not in _HARMLESS)

    @property
    def _suspected(self) -> int:
        return sum(seen.count for seen in self.suspected.values())

    @property
    def found(self) -> tuple[Finding, ...]:
        """One sentence for each kind that was found, the count of bars first."""
        return (self._describe_rows(), *self._describe_oddities())

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentences alone."""
        return tuple(one.text for one in self.found)

    def _describe_rows(self) -> Finding:
        text = (
            f"{self.rows_out:,} of {self.rows_in:,} rows are bars, opened {_minute(self.begins)} "
            f"to {_minute(self.ends)} UTC, calendar {self.calendar}"
        )
        outside = self.rows_in - self.rows_out - sum(seen.count for seen in self.dropped.values())
        if outside > 0:
            text += f"; {outside:,} rows lie outside the period asked for"
        if not self._describe_oddities():
            text += "; no hole, no split, no bad print"
        return Finding("rows", text)

    def _describe_oddities(self) -> tuple[Finding, ...]:
        told = [
            *((kind, seen, f" of {self.rows_in:,} rows") for kind, seen in self.dropped.items()),
            *((kind, seen, f" of {self.rows_out:,} bars") for kind, seen in self.suspected.items()),
            *((kind, seen, " bars") for kind, seen in self.rebuilt.items()),
        ]
        found = [
            Finding(kind.replace("_", " "), _sentence(kind, seen, total), kind not in _QUIET)
            for kind, seen, total in told
        ]
        if self.holes.count:
            found.append(Finding("holes", self.describe_holes()))
        if self.flat:
            text = f"{self.flat:,} of {self.rows_out:,} bars are flat: one price from open to close"
            found.append(Finding("flat", text))
        if self.reordered:
            found.append(Finding("order", "the rows were not in the order of time and were sorted"))
        return (*found, *(Finding("note", text, is_odd=True) for text in self.warnings))

    def describe_holes(self) -> str:
        """How many bars are missing, where first, and which share is left."""
        return (
            f"{self.holes.count:,} hole(s) of {self.missing:,} bars in all{_dates(self.holes)}; "
            f"{self.completeness:.2%} of the tradable bars are present"
        )

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


def accept_bars(bars: Bars) -> Bars:
    """Bars for a training: what was found of them is logged, and too much refuses them.

    Raises:
        BarsError: when more than `MAX_DOUBTFUL_SHARE` of the rows are doubtful, or fewer than
            `MIN_COMPLETENESS` of the tradable bars are present.
    """
    findings = Findings.of(bars)
    for one in findings.found:
        level = logging.WARNING if one.is_odd else logging.INFO
        _log.log(level, "%s on %s: %s", bars.symbol, bars.venue, one.text)
    require_sound(findings, f"{bars.timeframe} bars of {bars.provenance.label}")
    return bars


def require_sound(findings: Findings, what: str) -> None:
    """Refuse bars of which too many are doubtful or missing.

    Args:
        what: The bars in words, with which the message begins.

    Raises:
        BarsError: as `accept_bars`.
    """
    if findings.doubtful_share > MAX_DOUBTFUL_SHARE:
        odd = "; ".join(one.text for one in findings.found if one.is_odd)
        raise BarsError(
            f"{what}: {findings.doubt}, at most {MAX_DOUBTFUL_SHARE:.0%} are accepted: {odd}. "
            "Pass start= where the sound bars begin; decimal= or columns= if the numbers of a "
            "file are read wrongly; or bars_file= or venue= to take the bars from elsewhere"
        )
    if findings.completeness < MIN_COMPLETENESS:
        raise BarsError(
            f"{what}: {findings.found[0].text}; {findings.describe_holes()}, at least "
            f"{MIN_COMPLETENESS:.0%} are needed. Pass timeframe= if the bars are longer, calendar= "
            "such as 'XNYS' if the market closes, or start= where the bars are complete"
        )


def _sentence(kind: str, seen: Sighting, of_all: str) -> str:
    text = _SENTENCES.get(kind, f"were counted as {kind.replace('_', ' ')}")
    return f"{seen.count:,}{of_all} {text}{_dates(seen)}"


def _dates(seen: Sighting) -> str:
    """The first date of a kind in brackets, or several; empty where none is known."""
    if not seen.first:
        return ""
    dates = ", ".join(_minute(one) for one in seen.first)
    return f" ({'at' if seen.count == len(seen.first) else 'first'} {dates})"


def _first_date(quality: QualityReport, reason: str) -> tuple[datetime, ...]:
    first = quality.first_dropped.get(reason)
    return () if first is None else (first.to_pydatetime(),)


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


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
