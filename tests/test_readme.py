"""The README: its code runs, its commands exist, its error messages are ours."""

import ast
import asyncio
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.context import root_settings_context
from prefect.settings import PREFECT_API_URL

from mlops.monitoring.drift import Recommendation
from tests.project import seeded

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCE = "\n".join(path.read_text() for path in (ROOT / "mlops").rglob("*.py"))

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


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", README))))
def test_every_make_command_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def troubleshooting() -> list[str]:
    """What the tables of these sections quote, without what stands for the case at hand."""
    sections = [
        README.partition(f"### {title}")[2].partition("###")[0]
        for title in ("Model registration fails", "Deployment time-out")
    ]
    quoted = re.findall(r"^\| `([^`]+)`", "\n".join(sections), flags=re.MULTILINE)
    return [part.strip(" ,;") for text in quoted for part in text.split("…") if part.strip(" ,;")]


@pytest.mark.parametrize("fragment", troubleshooting())
def test_every_quoted_message_is_one_of_ours(fragment):
    assert fragment in SOURCE


@pytest.mark.parametrize("word", re.findall(r"`([A-Z][A-Z_]{5,})`", README))
def test_every_word_in_capitals_is_a_setting_or_a_recommendation(word):
    assert word in set(Recommendation) or f"\n{word}=" in (ROOT / ".env.example").read_text()
