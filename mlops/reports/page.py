"""A report page: sections of verdict, gates, metrics and pictures, as one HTML file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Picture:
    """A `data:` URI with the question it answers and how to read it."""

    title: str
    uri: str
    caption: str


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric of a model beside its baseline's; None where it does not exist."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One version: its verdict and what it rests on. ``gates`` are gate results as mappings."""

    title: str
    verdict: str
    passed: bool
    facts: Mapping[str, str]
    gates: Sequence[Mapping[str, Any]]
    metrics: Sequence[MetricRow]
    pictures: Sequence[Picture]

    def to_json(self) -> str:
        """Everything, so that the section can be put on another page later."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` back."""
        parts = json.loads(text)
        parts["metrics"] = [MetricRow(**row) for row in parts["metrics"]]
        parts["pictures"] = [Picture(**picture) for picture in parts["pictures"]]
        return cls(**parts)


@dataclass(frozen=True, slots=True)
class Step:
    """One arrow of a rollout: seconds since it was asked for, where it led, on what evidence."""

    seconds: float
    phase: str
    share: float
    trials: int
    faults: int
    evidence: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSection:
    """One rollout: how it ended, the path it took, and what clients were answered meanwhile."""

    title: str
    verdict: str
    passed: bool
    facts: Mapping[str, str]
    steps: Sequence[Step]
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened in market time: ``kind`` in a word, ``text`` in a sentence."""

    at: datetime
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySection:
    """A stretch of a service's life: what it was worth, what happened when, what it looked like."""

    title: str
    verdict: str
    passed: bool
    facts: Mapping[str, str]
    moments: Sequence[Moment]
    pictures: Sequence[Picture]

    def to_json(self) -> str:
        """Everything, so that another process can put the section on its page."""
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
class Page:
    """What `render` turns into HTML."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    rollouts: Sequence[RolloutSection] = ()
    history: Sequence[HistorySection] = ()


def render(page: Page) -> str:
    """The page as HTML with its pictures inside; every text is escaped."""
    return fill("card.html", page=page)


def fill(template: str, **values: Any) -> str:
    """A template of this room with its values; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlops.reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = readable_number
    return environment.get_template(template).render(**values)


def readable_number(value: float | int | None) -> str:
    """Four significant digits; thousands separated; an em dash where there is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, int) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:,.4g}"
