"""Refuses an ``.env`` file that cannot be read, or of which a part would be left out silently."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from mlops.errors import SettingsError

_LINE = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=(.*)$", re.MULTILINE)
_WITHOUT_DEFAULT = re.compile(r"\$\{([^{}:]+)\}")


def check_env_file(file: Path, paths: Collection[str], known: Collection[str]) -> None:
    """Check the file; one that is not there is right.

    Args:
        paths: The variables that hold paths. A ``${NAME}`` in them that is not set would be read
            as nothing, and ``${DATA}/mlops`` as the folder ``/mlops``.
        known: The variables of the environment. What the file says of these is not used.

    Raises:
        SettingsError: when it cannot be read, is not UTF-8, or a path names a variable that is
            neither set in the environment nor in the file.
    """
    lines = dict(_LINE.findall(_read(file)))
    overridden = {name.upper() for name in known}
    for name, value in lines.items():
        if name.upper() not in paths or name.upper() in overridden:
            continue
        for variable in _WITHOUT_DEFAULT.findall(value):
            if variable not in known and variable not in lines:
                raise SettingsError(
                    f"{name} in {file.absolute()} names the variable {variable!r}, which is not "
                    "set; set it, or write the whole path"
                )


def _read(file: Path) -> str:
    if not file.is_file():
        return ""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{file.absolute()} cannot be read ({error.strerror}); give this user the right to "
            "read it, or remove it"
        ) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SettingsError(
            f"{file.absolute()} is not UTF-8: byte {raw[error.start]:#04x} at position "
            f"{error.start}, in line {line}; save the file in the encoding UTF-8"
        ) from error
