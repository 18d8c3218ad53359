"""The wheel holds the library only; flows, tasks and deployments run from a checkout."""

import tomllib
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_holds_mlops_and_every_package_of_it():
    chosen = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = set(find_packages(str(ROOT), include=chosen))
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "mlops").rglob("*.py")}
    assert packages == {".".join(folder.parts) for folder in folders}


def test_the_wheel_tells_type_checkers_that_it_is_typed():
    data = PROJECT["tool"]["setuptools"]["package-data"]["mlops"]
    assert "py.typed" in data
    assert (ROOT / "mlops" / "py.typed").is_file()
