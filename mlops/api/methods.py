"""Which methods a path takes, for the header `Allow` and for paths that look like another's.

`/models/deploy` has the form of `/models/{model_id}`: a GET of it is refused as a wrong method, not
looked up as a version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from starlette.routing import compile_path


class Methods:
    """The methods of every path of an application.

    Args:
        routes: Method and path template of each route.
    """

    def __init__(self, routes: Iterable[tuple[str, str]]) -> None:
        by_template: dict[str, set[str]] = defaultdict(set)
        for method, template in routes:
            by_template[template].add(method)
        for methods in by_template.values():
            if "GET" in methods:
                methods.add("HEAD")
        self._literal = {path: taken for path, taken in by_template.items() if "{" not in path}
        self._templates = [
            (compile_path(template)[0], taken)
            for template, taken in by_template.items()
            if "{" in template
        ]

    def is_refused(self, method: str, path: str) -> bool:
        """Whether a path without parameters does not take a method."""
        taken = self._literal.get(path)
        return taken is not None and method not in taken

    def list_allowed(self, path: str) -> str:
        """The value of ``Allow`` for a path; empty where there is no such path."""
        taken = self._literal.get(path) or {
            method for pattern, some in self._templates if pattern.match(path) for method in some
        }
        return ", ".join(sorted(taken))
