"""What armed processes wrote down, read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Note:
    """One line: when (`time.monotonic`), who, what kind of thing, and what."""

    at: float
    who: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True, order=True)
class Visit:
    """A point and whether it was reached before or after what it names."""

    point: str
    when: str

    def __str__(self) -> str:
        return f"{self.when} {self.point}"


def read_notes(path: Path) -> list[Note]:
    """Every note of a scenario, in the order they were written."""
    if not path.exists():
        return []
    lines = (line.split("\t", 3) for line in path.read_text().splitlines())
    return [Note(float(at), who, kind, text) for at, who, kind, text in lines]


def visits_of(notes: Sequence[Note], role: str) -> set[Visit]:
    """The points that processes of a role came by; their names begin with it."""
    found = set()
    for note in notes:
        if note.kind == "visit" and note.who.startswith(role):
            when, _, point = note.text.partition(" ")
            found.add(Visit(point, when))
    return found
