"""Free memory is the machine's or the container's, whichever is less."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops.serving.engine.model_pool import available_memory


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  900 kB\nMemAvailable:  500 kB\nHugePages_Total: 0\n")
    return path


def group(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)
    return folder


def test_the_machine_says_what_is_available(meminfo, tmp_path):
    assert available_memory(meminfo, tmp_path / "none") == 500 * 1024


def test_a_container_may_have_less_and_file_pages_are_given_up(meminfo, tmp_path):
    limits = group(tmp_path, max="1000\n", current="900\n", stat="anon 1\ninactive_file 300\n")
    assert available_memory(meminfo, limits) == 400


def test_a_container_without_a_limit_has_the_machines_memory(meminfo, tmp_path):
    limits = group(tmp_path, max="max\n", current="900\n")
    assert available_memory(meminfo, limits) == 500 * 1024


def test_a_container_over_its_limit_has_nothing(meminfo, tmp_path):
    limits = group(tmp_path, max="800\n", current="900\n")
    assert available_memory(meminfo, limits) == 0


def test_free_memory_is_unknown_where_no_file_says_it(tmp_path):
    assert available_memory(tmp_path / "none", tmp_path) is None
