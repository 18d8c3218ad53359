"""What the import rules in pyproject.toml cannot say of the source; `make check` runs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("mlops", "tasks", "flows", "deployments")
FLOW_LINES, TASK_LINES = 60, 15

READS_ENVIRONMENT = {
    "mlops/settings.py": "the one place that reads it",
    "mlops/registry/tracking.py": "sets MLflow's own switches before it is imported",
    "mlops/registry/bundles.py": "hands a clean process what it needs to start",
    "mlops/store/postgres_dump.py": "hands pg_dump the password, which its arguments would show",
    "tasks/context.py": "is told there whether a worker started this process",
    "deployments/demo/__main__.py": "makes surroundings of its own",
    "deployments/demo/act_process.py": "hands the Prefect server's address to the third act",
    "deployments/demo/rollout_act.py": "hands the demonstration's surroundings to a replica",
    "deployments/serve.py": "hands its own to the processes it starts",
    "deployments/setup.py": "tells Prefect which clone it deploys",
    "flows/__init__.py": "gives a temporary Prefect server time to start",
}
READS_SETTINGS = ("tasks/", "flows/", "deployments/", "mlops/settings.py", "mlops/__init__.py")
HEAVY = ("torch", "mlflow", "optuna", "ccxt", "matplotlib", "exchange_calendars", "arch", "sklearn")
EXISTS_FOR_IT = ("mlops/models/", "mlops/search/tuning.py", "deployments/demo/story.py")


@lru_cache(maxsize=1)
def sources() -> dict[str, ast.Module]:
    """Every module of the product by its path."""
    paths = (path for house in HOUSES for path in sorted((ROOT / house).rglob("*.py")))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def decorated(name: str) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions under ``@name`` or ``@name(...)``."""
    found = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            calls = [getattr(mark, "func", mark) for mark in node.decorator_list]
            if any(isinstance(call, ast.Name) and call.id == name for call in calls):
                found.append((path, node))
    return found


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    assert function.end_lineno is not None
    return function.end_lineno - body[0].lineno + 1


@pytest.mark.parametrize(("mark", "limit"), [("flow", FLOW_LINES), ("task", TASK_LINES)])
def test_flows_and_tasks_are_thin(mark: str, limit: int) -> None:
    functions = decorated(mark)
    assert functions
    long = {f"{path}:{one.name}": body_lines(one) for path, one in functions}
    assert {name: lines for name, lines in long.items() if lines > limit} == {}


@pytest.mark.parametrize("mark", ["flow", "task"])
def test_flows_and_tasks_say_what_they_do(mark: str) -> None:
    assert [one.name for _, one in decorated(mark) if not ast.get_docstring(one)] == []


def test_only_the_statistics_import_scipy_stats() -> None:
    """The import rules see packages of others whole: `scipy`, not `scipy.stats`."""
    elsewhere = {
        path
        for path, tree in sources().items()
        if not path.startswith("mlops/stats/")
        and any(within(name, "scipy.stats") for name in imports(tree))
    }
    assert elsewhere == set()


def test_heavy_packages_are_imported_late() -> None:
    early = {
        (path, name)
        for path, tree in sources().items()
        if not path.startswith(EXISTS_FOR_IT)
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imports(node)
        if any(within(name, heavy) for heavy in HEAVY)
    }
    assert early == set()


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        path
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv"}
    }
    assert readers == set(READS_ENVIRONMENT)


def test_settings_are_read_at_the_top_and_handed_down() -> None:
    readers = {
        path
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute | ast.alias)
        and {getattr(node, key, None) for key in ("id", "attr", "name")}
        & {"current_settings", "load_settings"}
    }
    assert {path for path in readers if not path.startswith(READS_SETTINGS)} == set()
