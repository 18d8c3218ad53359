"""An .env file that cannot be read as it was meant is refused, and says where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mlops.env_file import check_env_file
from mlops.errors import SettingsError

PATHS = ("MLOPS_BASE_PATH", "STORE_URL")


def check(folder: Path, raw: bytes, known: Mapping[str, str] | None = None) -> None:
    (folder / ".env").write_bytes(raw)
    check_env_file(folder / ".env", PATHS, known or {})


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ("# Höhe\nSMTP_USER=Jürgen\n".encode("cp1252"), "byte 0xf6 at position 3, in line 1"),
        (b"A=1\r\n" + "SMTP_USER=Jürgen".encode("cp1252"), "byte 0xfc at position 16, in line 2"),
        ("MLOPS_BASE_PATH=/x".encode("utf-16"), "byte 0xff at position 0, in line 1"),
    ],
)
def test_what_is_no_utf8_is_named_with_file_byte_and_line(
    tmp_path: Path, raw: bytes, place: str
) -> None:
    with pytest.raises(SettingsError, match=rf"{tmp_path}/\.env is not UTF-8: {place}"):
        check(tmp_path, raw)


@pytest.mark.parametrize(
    "line",
    [
        "MLOPS_BASE_PATH=${NOPE}/x",
        "mlops_base_path=${NOPE}/x",
        "export STORE_URL = 'sqlite:///${NOPE}/x.db'",
    ],
)
def test_a_path_of_a_variable_that_is_not_set_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match=rf"in {tmp_path}/\.env names the variable 'NOPE'"):
        check(tmp_path, b"A=1\n" + line.encode())


@pytest.mark.parametrize(
    "text",
    [
        "NOPE=/data\nMLOPS_BASE_PATH=${NOPE}/x",
        "MLOPS_BASE_PATH=${HOME}/x",
        "MLOPS_BASE_PATH=${NOPE:-/data}/x",
        "SMTP_PASSWORD=a${NOPE}",
        "# MLOPS_BASE_PATH=${NOPE}/x",
        "\ufeffMLOPS_BASE_PATH=/x",
    ],
)
def test_any_other_file_is_right(tmp_path: Path, text: str) -> None:
    check(tmp_path, text.encode(), {"HOME": "/root"})


def test_a_line_that_the_environment_overrides_is_not_read(tmp_path: Path) -> None:
    check(tmp_path, b"MLOPS_BASE_PATH=${NOPE}/x", {"MLOPS_BASE_PATH": "/data"})


def test_there_need_be_no_file(tmp_path: Path) -> None:
    check_env_file(tmp_path / ".env", PATHS, {})
