"""`python -m benchmarks.house [REV [REV2]]`: how the source is built, at no, one or two commits.

Without a commit the working tree is measured. Of two commits the first is the earlier one. The
files with one importer and the import circles are listed for the last tree.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figure import PLAIN_WIDTH

ROOT = Path(__file__).parents[1]
LIBRARY = "mlops"
FOLDERS = (LIBRARY, "flows", "tasks", "deployments")
FACE = "__init__.py"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = Mapping[str, set[str]]


@dataclass(frozen=True, slots=True)
class Import:
    """A name imported from a module; without a name, the module itself."""

    module: str
    name: str | None
    for_types: bool
    """It stands under `if TYPE_CHECKING:`."""
    late: bool
    """It stands in a function."""


class SourceFile:
    """One parsed Python file.

    Args:
        path: Relative to the root of the tree, with forward slashes.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.is_face = path.endswith(f"/{FACE}")
        self.module = path.removesuffix(f"/{FACE}").removesuffix(".py").replace("/", ".")
        self.lines = text.splitlines()
        self.nodes = ast.parse(text, path)

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method, those inside other functions as well."""
        return [node for node in ast.walk(self.nodes) if isinstance(node, Function)]

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each name stands in an expression, alone or after a dot."""
        counts: Counter[str] = Counter()
        for node in ast.walk(self.nodes):
            if isinstance(node, ast.Name):
                counts[node.id] += 1
            elif isinstance(node, ast.Attribute):
                counts[node.attr] += 1
        return counts

    @cached_property
    def imports(self) -> list[Import]:
        return list(self._find_imports(self.nodes, for_types=False, late=False))

    def _find_imports(self, parent: ast.AST, *, for_types: bool, late: bool) -> Iterator[Import]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, for_types, late)
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute_module(node)
                for alias in node.names:
                    yield Import(module, alias.name, for_types, late)
            else:
                yield from self._find_imports(
                    node,
                    for_types=for_types or _is_type_checking_block(node),
                    late=late or isinstance(node, Function),
                )

    def _absolute_module(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parents = self.module.split(".")
        kept = len(parents) - node.level + self.is_face
        return ".".join([*parents[:kept], *([node.module] if node.module else [])])

    def count_code_lines(self) -> int:
        """Lines that are not blank, not only a comment, and not part of a docstring.

        A string that stands alone below an attribute is a docstring too.
        """
        left_out = {
            number
            for number, line in enumerate(self.lines, 1)
            if not line.strip() or line.lstrip().startswith("#")
        }
        for node in ast.walk(self.nodes):
            if _is_lone_string(node):
                left_out.update(_line_numbers(node))
        return len(self.lines) - len(left_out)


def _is_type_checking_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _is_lone_string(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _line_numbers(node: ast.AST) -> range:
    assert isinstance(node, ast.stmt)
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def count_function_lines(function: Function) -> int:
    """Lines from `def` to the end: decorators and the docstring are left out."""
    lines = len(_line_numbers(function))
    first = function.body[0]
    return lines - len(_line_numbers(first)) if _is_lone_string(first) else lines


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


class SourceTree:
    """The Python files of `FOLDERS` in one commit, or in the working tree.

    Args:
        title: Heads the column of this tree.
        texts: The text of each file by its path.
    """

    def __init__(self, title: str, texts: Mapping[str, str]) -> None:
        self.title = title
        self.files = [SourceFile(path, texts[path]) for path in sorted(texts)]
        if not self.files:
            raise ValueError(f"{title} has no Python file in {', '.join(FOLDERS)}")
        self.modules = {file.module: file for file in self.files}

    def count_code_lines(self) -> int:
        return sum(file.count_code_lines() for file in self.files)

    def count_functions(self) -> int:
        return sum(len(file.functions) for file in self.files)

    def count_names(self, *, private: bool, used_once: bool = False) -> Counter[str]:
        """How many functions have each name.

        Args:
            used_once: Count only functions whose file uses their name exactly once.
        """
        return Counter(
            function.name
            for file in self.files
            for function in file.functions
            if is_private(function.name) is private
            and (not used_once or file.uses[function.name] == 1)
        )

    def count_used_once(self, earlier: SourceTree | None = None) -> int:
        """Private functions whose name is used once in their file.

        Args:
            earlier: Where its `_name` is a private function and this tree has more functions
                called `name` than `earlier` had, the additional ones count as private.
        """
        count = self.count_names(private=True, used_once=True).total()
        if earlier is None:
            return count
        were_private = earlier.count_names(private=True)
        added = self.count_names(private=False) - earlier.count_names(private=False)
        added &= self.count_names(private=False, used_once=True)
        return count + sum(more for name, more in added.items() if f"_{name}" in were_private)

    def function_line_quantiles(self, shares: Sequence[float]) -> list[int]:
        lengths = sorted(
            count_function_lines(function) for file in self.files for function in file.functions
        )
        return [lengths[int(share * len(lengths))] for share in shares] if lengths else []

    def find_longest_file(self) -> SourceFile:
        return max(self.files, key=lambda file: len(file.lines))

    def find_module(self, imported: Import) -> str | None:
        """The module of this tree that an import names; of a name in a face, the face."""
        inner = f"{imported.module}.{imported.name}"
        if inner in self.modules:
            return inner
        return imported.module if imported.module in self.modules else None

    def graph_imports(
        self,
        group_of: Callable[[SourceFile], str] = lambda file: file.module,
        *,
        for_types: bool = True,
        late: bool = True,
    ) -> Graph:
        """What each group of files imports from other groups.

        Args:
            group_of: The group of a file; by default each file is a group.
            for_types: Include imports under `if TYPE_CHECKING:`.
            late: Include imports in functions.
        """
        graph: defaultdict[str, set[str]] = defaultdict(set)
        for file in self.files:
            for imported in file.imports:
                module = self.find_module(imported)
                if module is None:
                    continue
                if (imported.for_types and not for_types) or (imported.late and not late):
                    continue
                importer, target = group_of(file), group_of(self.modules[module])
                if importer != target:
                    graph[importer].add(target)
        return graph

    def find_single_importers(self) -> dict[str, str]:
        """The importer's path by the path of each file, no face, that one other file imports."""
        importers: defaultdict[str, list[str]] = defaultdict(list)
        for importer, targets in self.graph_imports().items():
            for target in targets:
                importers[target].append(importer)
        return {
            file.path: self.modules[importers[file.module][0]].path
            for file in self.files
            if not file.is_face and len(importers[file.module]) == 1
        }

    def count_readers(self, path: str, face: str) -> int:
        """How many files import, from a face, a name that the face has from the file at `path`."""
        modules = {file.path: file.module for file in self.files}
        names = {
            imported.name
            for imported in self.modules[modules[face]].imports
            if self.find_module(imported) == modules[path]
        }
        return sum(
            any(taken.module == modules[face] and taken.name in names for taken in file.imports)
            for file in self.files
        )


def package_of(file: SourceFile) -> str:
    """The package of a file, a nested package counted with its parent.

    Each module right under the library is a package of its own.
    """
    parts = file.module.split(".")
    return ".".join(parts[:2]) if parts[0] == LIBRARY else parts[0]


def innermost_package_of(file: SourceFile) -> str:
    """As `package_of`, but a nested package is a package of its own."""
    parent = file.module if file.is_face else file.module.rpartition(".")[0]
    return file.module if parent == LIBRARY else parent


def find_circles(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one node, each sorted."""
    reachable = {node: _reach(graph, node) for node in graph}
    circles = {
        tuple(sorted(other for other in reached if node in reachable.get(other, ())))
        for node, reached in reachable.items()
        if node in reached
    }
    return [list(circle) for circle in sorted(circles)]


def _reach(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(graph.get(node, ()))
    return reached


def circles_of(tree: SourceTree) -> dict[str, list[list[str]]]:
    """The import circles by what is counted.

    Imports in functions count between packages, but not between modules: there they are the way
    to break a circle.
    """
    plain = tree.graph_imports(for_types=False, late=False)
    with_types = tree.graph_imports(late=False)
    return {
        "circles of modules": find_circles(plain),
        "circles of modules, TYPE_CHECKING imports too": find_circles(with_types),
        "circles of packages": find_circles(tree.graph_imports(package_of)),
        "circles of packages, nested packages apart": find_circles(
            tree.graph_imports(innermost_package_of)
        ),
    }


def measure(tree: SourceTree, earlier: SourceTree | None = None) -> dict[str, str]:
    """Every figure of a tree as text, by its name.

    Args:
        earlier: The tree whose private functions stay private when their underscore is dropped.
    """
    functions = tree.count_functions()
    used_once = tree.count_used_once(earlier)
    longest = tree.find_longest_file()
    share = used_once / functions if functions else 0.0
    return {
        f"files without {FACE}": f"{sum(not file.is_face for file in tree.files):,}",
        "code lines": f"{tree.count_code_lines():,}",
        "private functions used once in their file": (
            f"{used_once:,} of {functions:,}, {share:.1%}"
        ),
        "files with one importer": f"{len(tree.find_single_importers()):,}",
        "lines of a function: median, p90, p99": ", ".join(
            str(lines) for lines in tree.function_line_quantiles((0.5, 0.9, 0.99))
        ),
        "longest file": f"{len(longest.lines):,} ({longest.path})",
        **{name: str(len(circles)) for name, circles in circles_of(tree).items()},
    }


def read_working_tree(root: Path = ROOT) -> SourceTree:
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    texts = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in paths}
    return SourceTree("working tree", texts)


def read_commit(revision: str, root: Path = ROOT) -> SourceTree:
    """The tree of a commit, read without a checkout.

    Raises:
        ValueError: Git does not know the revision.
    """
    command = ["git", "-C", str(root), "archive", "--format=tar", "--end-of-options", revision]
    archived = subprocess.run(command, capture_output=True, check=False)
    if archived.returncode:
        raise ValueError(f"{revision!r} cannot be read: {archived.stderr.decode().strip()}")
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
        for member in archive:
            if member.name.endswith(".py") and member.name.split("/")[0] in FOLDERS:
                content = archive.extractfile(member)
                if content is not None:
                    texts[member.name] = content.read().decode("utf-8")
    return SourceTree(revision, texts)


def make_table(trees: Sequence[SourceTree]) -> Table:
    """One row a figure, one column a tree; each tree is compared with the first."""
    columns = [measure(tree, trees[0] if number else None) for number, tree in enumerate(trees)]
    table = Table(title=", ".join(FOLDERS), title_justify="left")
    table.add_column("figure")
    for tree in trees:
        table.add_column(tree.title, justify="right")
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def list_details(tree: SourceTree) -> Iterator[str]:
    """A line for each file with one importer, and one for each import circle."""
    yield f"files with one importer, {tree.title}:"
    for path, importer in tree.find_single_importers().items():
        if importer.endswith(f"/{FACE}"):
            readers = tree.count_readers(path, importer)
            yield f"  {path} <- {importer} (files that import its names from there: {readers})"
        else:
            yield f"  {path} <- {importer}"
    for name, circles in circles_of(tree).items():
        yield from (f"{name}: {', '.join(circle)}" for circle in circles)


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__)
    parser.add_argument("first", nargs="?", metavar="REV", help="a commit, branch or tag")
    parser.add_argument("second", nargs="?", metavar="REV2", help="a later one")
    given = parser.parse_args(arguments)
    revisions = [revision for revision in (given.first, given.second) if revision is not None]
    try:
        trees = [read_commit(name, root) for name in revisions] or [read_working_tree(root)]
    except ValueError as error:
        parser.error(str(error))
    console = Console()
    (console if console.is_terminal else Console(width=PLAIN_WIDTH)).print(make_table(trees))
    for line in list_details(trees[-1]):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
