"""An act in a process of its own hands back its text and its section, or its failure."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deployments.demo.act_process import ActProcess


def run_act(folder: Path, code: str) -> ActProcess:
    output = folder / "act.txt"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file)
    return ActProcess(process, output, folder / "act.json")


def finish(act: ActProcess) -> tuple[str, list[str]]:
    console = Console(file=io.StringIO(), width=80)
    sections = act.finish(console, "it goes on")
    return console.file.getvalue(), sections  # type: ignore[attr-defined]


def test_the_text_and_the_section_of_an_act_are_handed_back(tmp_path: Path) -> None:
    act = run_act(tmp_path, "print('[bold] is no markup here')")
    act.section.write_text('{"title": "a test"}', encoding="utf-8")
    assert finish(act) == ("[bold] is no markup here\n", ['{"title": "a test"}'])


def test_an_act_may_end_without_a_section(tmp_path: Path) -> None:
    assert finish(run_act(tmp_path, "print('refused')")) == ("refused\n", [])


def test_an_act_that_fails_ends_the_demonstration_and_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ended with status 3; see .*act\.log"):
        finish(run_act(tmp_path, "raise SystemExit(3)"))
