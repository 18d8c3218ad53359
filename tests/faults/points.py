"""Where the product commits and loads, read off its source, so that no list is kept by hand."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mlops
from tests.faults.armed import STAGES

ROOT = Path(mlops.__file__).parent
ROOMS = ("rollout", "serving", "deployer.py")
"""All their commits are points; of the store's functions those that are called here."""

OF_FLOWS = ("fallback.py", "retirement.py")
"""Flows or people call them, no process of the scenes does: `tests/mlops/rollout` has their books.
"""


def commits_in_source() -> set[str]:
    """Every function with a transaction of its own, as ``module.function``."""
    store = dict(_committing(ROOT / "store"))
    called = {
        name for room in ROOMS for path in _files(ROOT / room) for name in _taken_from_store(path)
    }
    own = {point for room in ROOMS for _, point in _committing(ROOT / room)}
    return own | {point for name, point in store.items() if name in called}


def stages_in_source() -> set[str]:
    """The stages that `mlops.serving.engine.model_pool` announces."""
    tree = ast.parse((ROOT / "serving" / "engine" / "model_pool.py").read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if ast.unparse(call.func) in ("stage", "self._enter")
        and isinstance(call.args[0], ast.Constant)
    }


def known_points() -> set[str]:
    """Every point that the source promises, without what tells one function's commits apart."""
    return commits_in_source() | {f"load[{name}]" for name in STAGES}


def _files(place: Path) -> list[Path]:
    found = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return [path for path in found if path.name not in OF_FLOWS]


def _committing(place: Path) -> Iterator[tuple[str, str]]:
    """The name and point of each function that opens a transaction."""
    for path in _files(place):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(map(_opens, ast.walk(node))):
                yield node.name, f"{path.stem}.{node.name}"


def _opens(node: ast.AST) -> bool:
    """Whether it is ``with something.write() as ...``."""
    return isinstance(node, ast.With) and any(
        isinstance(item.context_expr, ast.Call)
        and isinstance(item.context_expr.func, ast.Attribute)
        and item.context_expr.func.attr == "write"
        for item in node.items
    )


def _taken_from_store(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlops.store"):
            yield from (alias.name for alias in node.names)
