"""Mutations of bytes, of JSON and of the numbers in a text, drawn from a seeded generator."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS = (
    "0", "-0.0", "-1", "1e-300", "1e300", "5e-324", "2.2e-308", "1.7976931348623157e308", "1e999",
    "NaN", "Infinity", "-Infinity", "null", "true", '"1"', '""', "[]", "{}", "1" + "0" * 400,
    "9223372036854775808", "-9223372036854775809", "1e-9", "1e9", "0.1", "3",
)  # fmt: skip
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e-300, 1e300, float("nan"), float("inf"),
    "", "x", "\x00", "\ud800", "é" * 50, "NaN", "1e5", "../../etc/passwd", [], {}, [[]], [None],
    {"": None}, [1, "a", None],
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_DEEPEST = 200


class Mutator:
    """Mutates values by one generator, so that equal seeds give equal mutants."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def mutate_bytes(self, raw: bytes, others: Sequence[bytes] = ()) -> bytes:
        """One to four changes of a few bytes, or of a stretch of them."""
        mutant = bytearray(raw)
        for _ in range(self.random.randint(1, 4)):
            self._change_bytes(mutant, others)
        return bytes(mutant)

    def _change_bytes(self, mutant: bytearray, others: Sequence[bytes]) -> None:
        at = self.random.randrange(len(mutant) + 1)
        length = min(self.random.choice((1, 1, 2, 8, 64, 1000)), len(mutant) - at)
        match self.random.randrange(6):
            case 0 if at < len(mutant):
                mutant[at] ^= 1 << self.random.randrange(8)
            case 1:
                del mutant[at : at + length]
            case 2:
                mutant[at:at] = self.random.randbytes(self.random.choice((1, 4, 16)))
            case 3:
                mutant[at:at] = mutant[at : at + length] * self.random.choice((1, 3, 50))
            case 4:
                mutant[at : at + length] = self.random.choice((b"\x00", b"\xff", b"0")) * length
            case _ if others:
                other = self.random.choice(others)
                cut = self.random.randrange(len(other) + 1)
                mutant[at:] = other[cut : cut + 10_000]

    def mutate_numbers(self, text: bytes) -> bytes:
        """Replace some numbers in a text by others that are hard to read."""
        share = self.random.choice((0.0, 0.01, 0.1, 1.0))
        places = list(_NUMBER.finditer(text))
        if not places:
            return self.mutate_bytes(text)
        least = self.random.choice(places).start()
        few = [self.random.choice(NUMBERS).encode() for _ in range(self.random.randint(1, 2))]

        def replaced(match: re.Match[bytes]) -> bytes:
            hit = match.start() == least or self.random.random() < share
            return self.random.choice(few) if hit else match.group()

        return _NUMBER.sub(replaced, text)

    def mutate_json(self, document: Any, words: Sequence[str] = ()) -> Any:
        """One to three changes anywhere in a document.

        Args:
            words: Keys that the reader knows.
        """
        mutant: list[Any] = [copy.deepcopy(document)]
        for _ in range(self.random.randint(1, 3)):
            holder, key = self._choose_place(mutant)
            self._change_place(holder, key, words)
        return mutant[0]

    def _choose_place(self, root: list[Any]) -> tuple[Any, Any]:
        """A container and a key in it, all depths being equally likely."""
        holder: Any = root
        key: Any = 0
        while isinstance(holder[key], dict | list) and holder[key] and self.random.random() < 0.8:
            holder = holder[key]
            inner = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = self.random.choice(inner)
        return holder, key

    def _change_place(self, holder: Any, key: Any, words: Sequence[str]) -> None:
        value = holder[key]
        changes: tuple[Callable[[], Any], ...] = (
            lambda: copy.deepcopy(self.random.choice(LEAVES)),
            lambda: [value] * self.random.choice((0, 1, 2, 40)),
            lambda: {self.random.choice([*words, "x"]): value},
            lambda: self._nest(value),
            lambda: str(value)[:2000],
        )
        if self.random.random() < 0.6:
            holder[key] = self.random.choice(changes)()
        elif isinstance(holder, dict):
            del holder[key]
            holder[self.random.choice([*words, "x", ""])] = value
        elif len(holder) > 1:
            holder[key : key + 1] = [value] * self.random.choice((0, 2, 3))

    def _nest(self, value: Any) -> Any:
        for _ in range(self.random.choice((1, 5, _DEEPEST))):
            value = [value] if self.random.random() < 0.5 else {"x": value}
        return value


def json_bytes(document: Any) -> bytes:
    """JSON with NaN and Infinity; a lone surrogate stays an escape."""
    return json.dumps(document).encode()
