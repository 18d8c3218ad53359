"""A report page: sections with verdicts, gates, metrics and pictures, as one HTML file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

from mlops.data.finding_texts import Finding


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a `data:` URI, with its title and how to read it."""

    title: str
    uri: str
    caption: str


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric of a model and of its baseline; None where there is no number."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The section of a version.

    Attributes:
        gates: Gate results as mappings.
        bars: What was found of the bars; empty where nobody knows.
    """

    title: str
    verdict: str
    passed: bool
    facts: Mapping[str, str]
    gates: Sequence[Mapping[str, Any]]
    metrics: Sequence[MetricRow]
    pictures: Sequence[Picture]
    bars: Sequence[Finding] = field(default_factory=list)

    def to_json(self) -> str:
        """Write the section as JSON, so that it can be put on another page later."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` back."""
        parts = json.loads(text)
        parts["metrics"] = [MetricRow(**row) for row in parts["metrics"]]
        parts["pictures"] = [Picture(**picture) for picture in parts["pictures"]]
        parts["bars"] = [Finding(**row) for row in parts.get("bars", ())]
        return cls(**parts)


@dataclass(frozen=True, slots=True)
class Step:
    """A transition of a rollout.

    Attributes:
        seconds: Since the rollout was requested.
        phase: The phase it led to.
        share: Share of the requests that the new version gets, 0 to 1.
        trials, faults: Requests counted, and those of them that failed.
        evidence: The e-value that the new version is worse.
    """

    seconds: float
    phase: str
    share: float
    trials: int
    faults: int
    evidence: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSection:
    """The section of a rollout: how it ended, and its steps."""

    title: str
    verdict: str
    passed: bool
    facts: Mapping[str, str]
    steps: Sequence[Step]
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Moment:
    """An event in market time: ``kind`` in a word, ``text`` in a sentence."""

    at: datetime
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySection:
    """The section of a span of market time of a service."""

    title: str
    verdict: str
    passed: bool
    facts: Mapping[str, str]
    moments: Sequence[Moment]
    pictures: Sequence[Picture]

    def to_json(self) -> str:
        """Write the section as JSON, so that another process can put it on its page."""
        return json.dumps(asdict(self), default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` back."""
        parts = json.loads(text)
        parts["pictures"] = [Picture(**picture) for picture in parts["pictures"]]
        parts["moments"] = [
            Moment(**moment | {"at": datetime.fromisoformat(moment["at"])})
            for moment in parts["moments"]
        ]
        return cls(**parts)


@dataclass(frozen=True, slots=True)
class Regime:
    """A third of an A/B test's pairs by persistence, with the challenger's gain in it."""

    name: str
    pairs: int
    champion_loss: float
    challenger_loss: float
    gain: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AbTestSection:
    """The section of an A/B test: its verdict, its regimes, and its confidence sequence.

    Attributes:
        gaps: Rows that an arm lacks: arm, reason, bars.
    """

    title: str
    verdict: str
    passed: bool
    facts: Mapping[str, str]
    regimes: Sequence[Regime]
    gaps: Sequence[tuple[str, str, int]]
    pictures: Sequence[Picture]

    def to_json(self) -> str:
        """Write the section as JSON, so that another process can put it on its page."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` back."""
        parts = json.loads(text)
        parts["pictures"] = [Picture(**picture) for picture in parts["pictures"]]
        parts["regimes"] = [Regime(**regime) for regime in parts["regimes"]]
        parts["gaps"] = [tuple(gap) for gap in parts["gaps"]]
        return cls(**parts)


@dataclass(frozen=True, slots=True)
class Page:
    """The content of a page, which `render` turns into HTML."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    rollouts: Sequence[RolloutSection] = ()
    history: Sequence[HistorySection] = ()
    tests: Sequence[AbTestSection] = ()


def render(page: Page) -> str:
    """Turn a page into HTML with its pictures inside; every text is escaped."""
    return fill("card.html", page=page)


def fill(template: str, **values: Any) -> str:
    """Fill a template of `mlops/reports/templates` with values; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlops.reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = readable_number
    return environment.get_template(template).render(**values)


def readable_number(value: float | int | None) -> str:
    """Four significant digits with separated thousands; an em dash where there is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, int) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:,.4g}"
