"""Mutated bodies of a registration: each is refused as a problem, or is an upload."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fastapi.exceptions import RequestValidationError

from mlops.api.problems import Problem
from mlops.api.uploads import parse_upload
from mlops.errors import MlopsError
from mlops.manager import MLOpsManager
from tests.fuzz.model_files import GRAPH_FEATURES, Original
from tests.fuzz.mutations import LEAVES, Mutator, json_bytes
from tests.mlops.models.graphs import STEPS
from tests.mlops.registry.conftest import SERVICE

_KEYS = (
    "model_type", "symbol", "model_data", "metrics", "metadata", "config", "venue", "timeframe",
    "target", "horizon", "features", "sequence_length", "trained_until", "mse", "mae", "recipe",
)  # fmt: skip


@dataclass
class BodyResults:
    """What became of the mutants; ``findings`` says what must not be."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def fuzz_bodies(
    manager: MLOpsManager, originals: Sequence[Original], *, seed: int, numbers: range
) -> BodyResults:
    """Parse mutants of sound bodies as the route does.

    Args:
        numbers: Which mutants of this seed; each depends on seed and number only.
    """
    results = BodyResults()
    for number in numbers:
        outcome = parse_mutant(manager, make_body(originals, seed, number))
        results.outcomes[outcome] += 1
        if outcome not in ("refused", "parsed"):
            results.findings.append(f"body {number}: {outcome}")
    return results


def make_body(originals: Sequence[Original], seed: int, number: int) -> bytes:
    """The mutant of a number."""
    random = Random(f"{seed}:body:{number}")
    original, mutator = random.choice(originals), Mutator(random)
    body: dict[str, Any] = {
        "model_type": original.model_type,
        "symbol": SERVICE.symbol,
        "venue": SERVICE.venue,
        "model_data": base64.b64encode(original.content).decode(),
        "metrics": {"mse": 0.1, "mae": 0.1},
        "metadata": {"features": list(GRAPH_FEATURES), "sequence_length": STEPS},
    }
    match random.randrange(4):
        case 0:
            return mutator.mutate_bytes(json_bytes(body))
        case 1:
            body[random.choice(_KEYS)] = random.choice(LEAVES)
        case 2:
            body["metadata"][random.choice(_KEYS)] = random.choice(LEAVES)
        case _:
            body = mutator.mutate_json(body, _KEYS)
    return json_bytes(body)


def parse_mutant(manager: MLOpsManager, body: bytes) -> str:
    """Parse a body, and say what came of it."""
    try:
        parse_upload(manager, body, actor="local", request=None)
    except (Problem, RequestValidationError, MlopsError):
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "parsed"
