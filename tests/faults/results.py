"""What the prober wrote down, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt; ``status`` is None where there was no answer, and ``failed`` says how."""

    replica: str
    at: float
    until: float
    status: int | None = None
    version: str | None = None
    variant: str | None = None
    generation: int = 0
    failed: str | None = None
    body: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A request and what became of it."""

    number: int
    key: str | None
    first: Tried
    retry: Tried | None

    @property
    def answer(self) -> Tried:
        return self.first if self.retry is None else self.retry


@dataclass(frozen=True, slots=True)
class Change:
    """From ``at`` on, a replica's `/readyz` answered so, or did not."""

    replica: str
    at: float
    status: str


@dataclass(frozen=True, slots=True)
class Published:
    """A newest forecast as it was handed out."""

    replica: str
    at: float
    status: int
    bar: str | None
    value: float | None
    model_id: str | None


@dataclass(slots=True)
class Results:
    """Everything in the order it ended; it grows with each `Reader.read`."""

    requests: list[Request] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)

    def between(self, since: float, until: float) -> list[Request]:
        """Requests begun in that time (`time.monotonic`)."""
        return [one for one in self.requests if since <= one.first.at < until]

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in a line of the prober's."""
        if line["kind"] == "request":
            self.requests.append(_request(line))
        elif line["kind"] == "ready":
            self.changes.append(Change(line["replica"], line["at"], line["status"]))
        else:
            self.published.append(_published(line))


class Reader:
    """Reads a growing file, each line once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = Results()
        self._read = 0

    def read(self) -> Results:
        """What there is by now; the last line may be under way."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            for line in whole.splitlines():
                self.results.add(json.loads(line))
            self._read += len(whole) + bool(whole)
        return self.results


def _request(line: Mapping[str, Any]) -> Request:
    retry = line.get("retry")
    return Request(line["n"], line["key"], _tried(line), None if retry is None else _tried(retry))


def _tried(line: Mapping[str, Any]) -> Tried:
    return Tried(**{name: line[name] for name in Tried.__slots__ if name in line})


def _published(line: Mapping[str, Any]) -> Published:
    return Published(
        line["replica"],
        line["at"],
        line["status"],
        line.get("bar"),
        line.get("forecast"),
        line.get("model_id"),
    )
