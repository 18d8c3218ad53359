"""A bars folder has one id for all that see it, and a copy of it has another."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from mlops.data.bars_folder import (
    ID_FILE,
    describe_full_disk,
    describe_os_error,
    identify_folder,
)

Usage = namedtuple("Usage", "total used free")


def test_a_folder_keeps_its_id_and_another_has_another(tmp_path: Path) -> None:
    known = identify_folder(tmp_path / "bars")
    assert identify_folder(tmp_path / "bars") == known
    assert identify_folder(tmp_path / "other") != known
    assert [path.name for path in (tmp_path / "bars").iterdir()] == [ID_FILE]


def test_a_folder_that_is_reached_by_another_path_has_the_same_id(tmp_path: Path) -> None:
    known = identify_folder(tmp_path / "bars")
    (tmp_path / "mounted").symlink_to(tmp_path / "bars")
    assert identify_folder(tmp_path / "mounted") == known


def test_a_copy_of_a_folder_gets_an_id_of_its_own(tmp_path: Path) -> None:
    known = identify_folder(tmp_path / "bars")
    shutil.copytree(tmp_path / "bars", tmp_path / "copy")
    assert identify_folder(tmp_path / "copy") != known
    assert identify_folder(tmp_path / "bars") == known


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_a_damaged_id_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / ID_FILE).write_text(content)
    assert identify_folder(tmp_path) == identify_folder(tmp_path)


def test_a_full_disk_is_named_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe_full_disk(tmp_path) == ""
    assert describe_full_disk(tmp_path / "missing") == ""
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(100, 100, 4096))
    assert describe_full_disk(tmp_path).startswith(
        f"the disk of {tmp_path} is full (ENOSPC, 4 KiB free)"
    )


def test_an_error_of_the_system_is_told_with_its_name() -> None:
    assert describe_os_error(OSError(24, "Too many open files")) == "Too many open files (EMFILE)"
    assert describe_os_error(OSError("odd")) == "odd (OSError)"
