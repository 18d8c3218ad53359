"""The wheel holds the library only; flows, tasks and deployments run from a checkout."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_the_wheel_holds_mlops_and_no_other_top_level_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    assert {name for name in packages if any(fnmatch(name, one) for one in patterns)} == {"mlops"}


def test_every_folder_of_the_library_is_a_package_that_the_wheel_finds():
    folders = {path.parent for path in (ROOT / "mlops").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_wheel_tells_type_checkers_that_it_is_typed():
    assert "py.typed" in SETUPTOOLS["package-data"]["mlops"]
    assert (ROOT / "mlops" / "py.typed").is_file()
