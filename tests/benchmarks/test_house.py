"""Each structure figure of a small tree is the one that counting by hand gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.house import (
    SourceTree,
    circles_of,
    find_circles,
    list_details,
    main,
    measure,
    read_commit,
    read_working_tree,
)

PRICES = '''"""Prices.

# Not a comment: a line of the docstring.
"""

from __future__ import annotations

# A comment.
LIMIT = 3  # code, with a comment behind it
"""The docstring of an attribute."""


@staticmethod
def round_price(
    price: float,
) -> float:
    """Two lines

    of docstring."""
    return _clip(price)


def _clip(price: float) -> float:
    return min(price, _limit(), _limit())


def _limit() -> int:
    return LIMIT


class Book:
    def __repr__(self) -> str:
        return self._show()

    def _show(self) -> str:
        return "_show"
'''


def make_tree(**texts: str) -> SourceTree:
    """A tree of one file for each keyword: `data__prices` is `mlops/data/prices.py`."""
    return SourceTree(
        "tree", {f"mlops/{name.replace('__', '/')}.py": text for name, text in texts.items()}
    )


def make_package(page: str) -> SourceTree:
    """`mlops.data`, whose face exports `load_bars` of `load`, and a page outside of it."""
    texts = {
        "mlops/data/__init__.py": "from mlops.data.load import load_bars as load_bars\n",
        "mlops/data/load.py": "from mlops.data import times\nfrom mlops.data.bars import Bars\n",
        "mlops/data/bars.py": "from .times import parse\n",
        "mlops/data/times.py": "def parse(): ...\n",
        "flows/page.py": page,
    }
    return SourceTree("tree", texts)


def test_code_lines_leave_out_blank_comment_and_docstring_lines() -> None:
    assert make_tree(data__prices=PRICES).count_code_lines() == 16


def test_a_blank_line_in_a_docstring_is_taken_off_once() -> None:
    assert make_tree(a='"""One\n\nthree."""\n\nx = 1\n').count_code_lines() == 1


def test_a_private_function_is_counted_when_its_file_uses_its_name_once() -> None:
    tree = make_tree(data__prices=PRICES)
    assert tree.count_names(private=True, used_once=True) == {"_clip": 1, "_show": 1}
    assert tree.count_functions() == 5
    figure = measure(tree)["private functions used once in their file"]
    assert figure == "2 of 5, 40.0%"


def test_a_private_function_stays_private_when_its_underscore_is_dropped() -> None:
    earlier = make_tree(data__prices=PRICES)
    later = make_tree(moved__here=PRICES.replace("_clip", "clip").replace("_show", "_shown"))
    assert later.count_used_once() == 1
    assert later.count_used_once(earlier) == 2
    assert earlier.count_used_once(earlier) == 2


def test_a_public_function_of_before_is_not_taken_for_a_private_one() -> None:
    text = "def _load(): ...\ndef load(): ...\nload(_load, _load)\n"
    earlier = make_tree(a=text)
    assert make_tree(b=text).count_used_once(earlier) == 0
    assert make_tree(b=text, c="def load(): ...\nload()\n").count_used_once(earlier) == 1


def test_lines_of_a_function_count_the_signature_and_no_docstring() -> None:
    shares = (0.0, 0.5, 0.99)
    assert make_tree(data__prices=PRICES).function_line_quantiles(shares) == [2, 2, 4]


def test_a_file_with_one_importer_is_listed_with_it() -> None:
    assert make_package(page="def draw():\n    import numpy\n").find_single_importers() == {
        "mlops/data/bars.py": "mlops/data/load.py",
        "mlops/data/load.py": "mlops/data/__init__.py",
    }
    late = make_package(page="def draw():\n    from mlops.data import bars\n")
    assert "mlops/data/bars.py" not in late.find_single_importers()


@pytest.mark.parametrize(("name", "readers"), [("load_bars", 1), ("times", 0)])
def test_a_file_that_a_face_imports_is_listed_with_who_reads_the_face(
    name: str, readers: int
) -> None:
    tree = make_package(page=f"from mlops.data import {name}\n")
    listed = [line for line in list_details(tree) if line.startswith("  mlops/data/load.py <- ")]
    assert len(listed) == 1
    assert listed[0].endswith(
        f"mlops/data/__init__.py (files that import its names from there: {readers})"
    )


def test_a_circle_through_type_checking_is_counted_apart() -> None:
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlops.a import x\n"
    circles = circles_of(make_tree(a="from mlops.b import y\n", b=for_types))
    assert circles["circles of modules"] == []
    assert circles["circles of modules, TYPE_CHECKING imports too"] == [["mlops.a", "mlops.b"]]
    late = "def f():\n    import mlops.a\n"
    circles = circles_of(make_tree(a="from mlops.b import y\n", b=late))
    assert circles["circles of modules, TYPE_CHECKING imports too"] == []


def test_packages_can_go_in_a_circle_where_their_modules_do_not() -> None:
    tree = make_tree(
        data__a="from mlops.store.b import x\n",
        data__c="",
        data__csv__d="from mlops.data.c import x\n",
        data__e="from mlops.data.csv.d import x\n",
        store__b="from mlops.data.c import x\n",
    )
    circles = circles_of(tree)
    assert circles["circles of modules"] == []
    assert circles["circles of packages"] == [["mlops.data", "mlops.store"]]
    assert circles["circles of packages, nested packages apart"] == [
        ["mlops.data", "mlops.data.csv", "mlops.store"]
    ]


def test_circles_that_share_no_node_are_told_apart() -> None:
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}, "f": {"a"}}
    assert find_circles(graph) == [["a", "b"], ["c", "d", "e"]]


def commit(repository: Path, path: str, text: str) -> None:
    file = repository / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "step"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)


def test_two_commits_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(tmp_path, "mlops/prices.py", PRICES)
    commit(tmp_path, "tasks/load.py", "from mlops.prices import LIMIT\n")
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "new.py").write_text("")
    assert main(["HEAD~1", "HEAD"], root=tmp_path) == 0
    printed = capsys.readouterr().out
    (files,) = [line for line in printed.splitlines() if "files without" in line]
    assert [cell.strip() for cell in files.split("│")[2:4]] == ["1", "2"]
    assert "mlops/prices.py <- tasks/load.py" in printed
    assert len(read_working_tree(tmp_path).files) == 3


def test_a_commit_that_git_does_not_know_is_refused(tmp_path: Path) -> None:
    commit(tmp_path, "mlops/prices.py", PRICES)
    with pytest.raises(ValueError, match="'nowhere' cannot be read"):
        read_commit("nowhere", tmp_path)
    commit(tmp_path, "docs/page.py", "")
    (tmp_path / "mlops" / "prices.py").unlink()
    with pytest.raises(ValueError, match="no Python file in mlops"):
        read_working_tree(tmp_path)
