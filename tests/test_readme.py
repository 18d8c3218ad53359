"""The README: its code runs, its commands exist, its error messages are ours."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.monitoring.drift.report import Recommendation
from tests.project import seeded

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCE = "\n".join(path.read_text() for path in (ROOT / "mlops").rglob("*.py"))

NOTEBOOK = """
import ast, asyncio, inspect
cells = compile(open("cells.py").read(), "cells.py", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

async def run():
    found = eval(cells, globals())
    if inspect.iscoroutine(found):
        await found

asyncio.run(run())
"""
"""As a notebook runs its cells: in an event loop, where `await` needs no function."""


def test_the_notebook_lines_run_as_written(tmp_path, prefect_template, mlflow_template):
    """All blocks in one fresh process, as cells: train, explain, forecast, take it live."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    shown = "print('STATUS', result.status, 'LIVE', live)\n"
    (tmp_path / "cells.py").write_text("\n".join(blocks) + shown)
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
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
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
