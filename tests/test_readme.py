"""README and docs: their code runs, their commands, names, settings and links exist."""

import ast
import asyncio
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect.context import root_settings_context
from prefect.settings import PREFECT_API_URL

from mlops import MLOpsManager, TrainingConfig
from mlops.monitoring.drift.recommendation import Recommendation
from tests.project import seeded

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NOT_SHIPPED = re.compile(r"<!-- not shipped -->\n(.*?)<!-- end of not shipped -->\n", re.DOTALL)
"""Blocks measured on series that are not in the project, which no test can measure again."""

WRITTEN = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
PAGES = {page: NOT_SHIPPED.sub("", text) for page, text in WRITTEN.items()}
DOCS = {name: text for name, text in PAGES.items() if name != "README.md"}
SOURCE = "\n".join(
    path.read_text() for room in ("mlops", "deployments") for path in (ROOT / room).rglob("*.py")
)
OTHER_PAGES = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "tests/faults/README.md",
    "tests/mlops/rollout/README.md",
)
MOST_LINES = 170

VARIABLES_OF_OTHERS = {
    "AB_TEST",
    "MLOPS_SERIES",
    "PREFECT_API_URL",
    "PREFECT_HOME",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD",
}
MISSPELLED = "MIN_R2_SCOR"
"""An example of a name that nothing reads."""

MESSAGES_OF_OTHERS = (
    "X has 7 features, but Ridge is expecting 5",
    "Timed out while attempting to connect to ephemeral Prefect API server",
    "Deployment 'train/daily' not found!",
    "prefect: command not found",
    "prefect server start",
    "No module named",
    "database is locked",
    "No such artifact",
)
"""Quoted in the troubleshooting page, and raised by Prefect, MLflow, Python or scikit-learn."""

SHOWN = "print('STATUS', result.status, 'LIVE', live)\n"


def run_cells(path: str) -> None:
    """Run a file as a notebook runs its cells: in an event loop, `await` outside of functions."""
    with root_settings_context():
        asyncio.run(_run_cells(Path(path)))


async def _run_cells(path: Path) -> None:
    cells = compile(path.read_text(), path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    awaitable = eval(cells, {"__name__": "__main__"})
    if inspect.iscoroutine(awaitable):
        await awaitable


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """All blocks of the README in one file: train, explain, forecast, take it live."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    path = tmp_path / "cells.py"
    path.write_text("\n".join(blocks) + SHOWN)
    return path


@pytest.mark.slow
def test_the_notebook_lines_run_as_written(
    cells, tmp_path, zygote, prefect_server, mlflow_template
):
    """In one process, on the whole sample: fewer than 8,000 bars pass no gate, and cost as much."""
    environment = {
        "MLOPS_BASE_PATH": str(seeded(tmp_path / "mlops", mlflow_template)),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "600",
    }
    process = zygote.spawn(run_cells, str(cells), log=tmp_path / "cells.log", env=environment)
    assert "STATUS challenger LIVE True" in process.output(240)


@pytest.mark.slow
def test_the_notebook_lines_need_nothing_that_runs_already(
    cells, tmp_path, prefect_template, mlflow_template
):
    """A fresh interpreter, which starts a Prefect server of its own."""
    (tmp_path / "prefect").mkdir()
    shutil.copy(prefect_template, tmp_path / "prefect" / "prefect.db")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLOPS_BASE_PATH": str(seeded(tmp_path / "mlops", mlflow_template)),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    }
    environment.pop("PREFECT_API_URL", None)
    run = f"from {__name__} import run_cells; run_cells({str(cells)!r})"
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "STATUS challenger LIVE True" in done.stdout


@pytest.mark.parametrize("page", sorted(DOCS))
def test_the_python_blocks_of_a_page_run_as_written(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks_of(DOCS[page], "python"):
        exec(compile(block, page, "exec"), namespace)


def blocks_of(text: str, language: str) -> list[str]:
    """The fenced blocks of a language: `python` blocks run, `py` ones need a server or minutes."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def programs() -> Iterator[tuple[str, str]]:
    """Name and text of every block of Python in the pages, and of the scripts beside them."""
    for page, text in PAGES.items():
        for number, block in enumerate(blocks_of(text, "py") + blocks_of(text, "python")):
            yield f"{page}-{number}", block
    for path in sorted((ROOT / "docs").rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text()


PROGRAMS = dict(programs())


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_block_imports_and_configures_exists(program):
    code = PROGRAMS[program]
    compile(code, program, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            module = import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TrainingConfig":
            given = {keyword.arg for keyword in node.keywords}
            assert given <= set(TrainingConfig.model_fields)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_calls_of_the_manager_exists(page):
    called = set(re.findall(r"\bmanager\.(\w+)", PAGES[page]))
    assert {name for name in called if not hasattr(MLOpsManager, name)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_command_exists(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([\w-]+)", PAGES[page], flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES)
def test_every_prefect_deployment_exists(page):
    flows = {"train", "deploy", "monitor", "retrain", "reconcile"}
    deployed = {
        f"{one['entrypoint'].rpartition(':')[2]}/{one['name']}"
        for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    named = re.findall(rf"(?<![\w/])(?:{'|'.join(flows)})/[a-z0-9-]+", PAGES[page])
    assert set(named) <= deployed


@pytest.mark.parametrize("page", PAGES)
def test_every_metric_exists(page):
    for name in re.findall(r"`(mlops_\w+)`", PAGES[page]):
        assert f'"{name.removesuffix("_total")}"' in SOURCE, name


def quoted_messages() -> list[str]:
    """What the troubleshooting tables quote, without what stands for the case at hand."""
    cells = re.findall(r"^\| ([^|]+) \|", DOCS["docs/troubleshooting.md"], flags=re.MULTILINE)
    quoted = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell) if " " in text]
    ours = [text for text in quoted if not text.startswith(MESSAGES_OF_OTHERS)]
    return [part.strip(" ,;") for text in ours for part in text.split("…") if part.strip(" ,;")]


@pytest.mark.parametrize("fragment", quoted_messages())
def test_every_quoted_message_is_one_of_ours(fragment):
    assert fragment in SOURCE


@pytest.mark.parametrize("page", PAGES)
def test_every_word_in_capitals_is_a_setting_or_a_recommendation(page):
    words = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b", PAGES[page]))
    settings = set(re.findall(r"^([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert words - settings - set(Recommendation) - VARIABLES_OF_OTHERS - {MISSPELLED} == set()


def test_the_page_of_settings_says_what_the_example_file_does():
    script = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    written = script["write_page"]((ROOT / ".env.example").read_text())
    assert DOCS["docs/settings.md"] == written, "run docs/make_settings.py"
    names = re.findall(r"^([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert re.findall(r"^\| `([A-Z0-9_]+)` \|", written, re.MULTILINE) == names


def test_the_page_of_the_api_shows_answers_that_were_given():
    script = runpy.run_path(str(ROOT / "docs" / "make_api.py"))
    examples = json.loads((ROOT / "mlops" / "api" / "examples.json").read_text())
    page = (ROOT / "docs" / "api.md").read_text()
    assert script["ANSWER"].search(page)
    assert page == script["fill_page"](page, examples), "run docs/make_api.py"


def test_blocks_on_series_that_are_not_shipped_are_counted_and_say_how_they_were_measured():
    """They are skipped by every other test of this file."""
    skipped = {page: NOT_SHIPPED.findall(text) for page, text in WRITTEN.items()}
    assert {page: len(blocks) for page, blocks in skipped.items() if blocks} == {
        "docs/statistics.md": 1
    }
    for text in (block for blocks in skipped.values() for block in blocks):
        assert re.search(r"`MLOPS_SERIES=\w+ python -m benchmarks \w+`", text)
        assert re.search(r"commit `[0-9a-f]{7,}`, \d{4}-\d{2}-\d{2}", text)
        assert "not shipped" in text


def test_the_readme_is_short():
    assert len(README.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
def test_every_relative_link_leads_somewhere(page):
    text = (ROOT / page).read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_of(path.read_text()), f"{target}#{anchor}"


def anchors_of(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}
