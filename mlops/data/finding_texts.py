"""What was found of bars in plain sentences, for the log, the card and the explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mlops.data.findings import BAD_PRINT, SPLIT, Findings, Sighting

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

_QUIET = frozenset({"not_closed", "shifted"})
"""Kinds that every sound series may have, which are no warning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of finding in a sentence; ``is_odd`` where a person should look at it."""

    kind: str
    text: str
    is_odd: bool = False


def describe_findings(findings: Findings) -> tuple[Finding, ...]:
    """One sentence for each kind that was found, the count of bars first."""
    odd = (*_describe_counts(findings), *_describe_form(findings))
    return (_describe_rows(findings, is_clean=not odd), *odd)


def describe_doubt(findings: Findings) -> str:
    """How many rows and bars are doubtful, in a sentence."""
    return (
        f"{findings.unusable:,} of {findings.rows_judged:,} rows were dropped or merged and "
        f"{findings.suspected_bars:,} of {findings.rows_out:,} bars are suspected of an error "
        f"({findings.doubtful_share:.2%} together)"
    )


def describe_holes(findings: Findings) -> str:
    """How many bars are missing, where first, and which share is left."""
    holes = findings.holes
    return (
        f"{holes.count:,} hole(s) of {findings.missing:,} bars in all{_dates(holes)}; "
        f"{findings.completeness:.2%} of the tradable bars are present"
    )


def _describe_rows(findings: Findings, *, is_clean: bool) -> Finding:
    lost = sum(seen.count for seen in findings.dropped.values())
    outside = findings.rows_in - findings.rows_out - lost
    text = (
        f"{findings.rows_out:,} of {findings.rows_in:,} rows are bars, opened "
        f"{_minute(findings.begins)} to {_minute(findings.ends)} UTC, "
        f"calendar {findings.calendar}"
    )
    if outside > 0:
        text += f"; {outside:,} rows lie outside the period asked for"
    if is_clean:
        text += "; no hole, no split, no bad print"
    return Finding("rows", text)


def _describe_counts(findings: Findings) -> list[Finding]:
    """Rows that were dropped, bars that are suspected and bars that were rebuilt."""
    rows, bars = f" of {findings.rows_in:,} rows", f" of {findings.rows_out:,} bars"
    told = [
        *((kind, seen, rows) for kind, seen in findings.dropped.items()),
        *((kind, seen, bars) for kind, seen in findings.suspected.items()),
        *((kind, seen, " bars") for kind, seen in findings.rebuilt.items()),
    ]
    return [
        Finding(kind.replace("_", " "), _sentence(kind, seen, of_all), kind not in _QUIET)
        for kind, seen, of_all in told
    ]


def _describe_form(findings: Findings) -> list[Finding]:
    """Holes, flat bars and the order of the rows, and what the source says itself."""
    found = []
    if findings.holes.count:
        found.append(Finding("holes", describe_holes(findings)))
    if findings.flat:
        text = f"{findings.flat:,} of {findings.rows_out:,} bars are flat: high and low are equal"
        found.append(Finding("flat", text))
    if findings.reordered:
        found.append(Finding("order", "the rows were not in the order of time and were sorted"))
    return [*found, *(Finding("note", text, is_odd=True) for text in findings.warnings)]


def _sentence(kind: str, seen: Sighting, of_all: str) -> str:
    text = _SENTENCES.get(kind, f"were counted as {kind.replace('_', ' ')}")
    return f"{seen.count:,}{of_all} {text}{_dates(seen)}"


def _dates(seen: Sighting) -> str:
    """The first date of a kind in brackets, or several; empty where none is known."""
    if not seen.first:
        return ""
    dates = ", ".join(_minute(one) for one in seen.first)
    return f" ({'at' if seen.count == len(seen.first) else 'first'} {dates})"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
