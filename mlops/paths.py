"""Paths as users write them, and as the URLs of databases and artifacts carry them.

In a URL some characters of a path have a meaning of their own: ``#``, ``?`` and ``%``. Paths become
URLs, and URLs paths, by these functions alone, so that a path means one place everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SQLITE = re.compile(r"[a-z+]+:///([^?]*)(?:\?(.*))?", re.DOTALL | re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{([^{}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_LOCAL_HOSTS = ("", "localhost")
_TRUE = ("1", "true", "yes", "on", "t", "y")
"""What SQLAlchemy takes for true."""


def scheme_of(url: str) -> str:
    """The scheme of a URL in small letters; empty for a plain path."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def path_of(file_uri: str) -> Path:
    """The path that a ``file:`` URI names; a machine before the path is passed over.

    Such a URI has neither query nor fragment: ``?`` and ``#`` belong to the path, quoted or not.
    """
    _, path = _split_host(file_uri)
    return Path(os.fsdecode(unquote_to_bytes(path)))


def sqlite_url(path: Path, query: str = "") -> str:
    """The SQLAlchemy URL of an SQLite file.

    SQLAlchemy takes what stands before the first ``?`` as the path, as it is. A path with ``?`` can
    only be written as the ``file:`` URI that SQLite reads.

    Args:
        query: Options of the URL, without the ``?`` before them.
    """
    options = dict(parse_qsl(query))
    if "?" not in str(path) and not _is_sqlite_uri(options):
        return f"sqlite:///{path}" + (f"?{query}" if query else "")
    options["uri"] = "true"
    # MLflow would make folders of a URI's text if the URL began with `sqlite:///`.
    return f"sqlite+pysqlite:///{path.absolute().as_uri()}?{urlencode(options)}"


def sqlite_path(database: str, options: Mapping[str, object]) -> Path:
    """The file that database and options of an SQLite URL name."""
    is_uri = _is_sqlite_uri(options) and scheme_of(database) == "file"
    return path_of(database) if is_uri else Path(database)


def is_sqlite(url: str) -> bool:
    """Whether the URL names an SQLite file that Python's own driver opens."""
    return scheme_of(url) in ("sqlite", "sqlite+pysqlite")


def expand_path(text: str, variables: Mapping[str, str]) -> str:
    """Replace a leading ``~`` or ``~user``, each ``$NAME`` and each ``${NAME}``.

    Behind its beginning the text is taken as it is where a folder of that very name exists.

    Raises:
        ValueError: when there is no such user or variable.
    """
    home, rest = "", text
    if text.startswith("~"):
        user = text.partition("/")[0]
        home, rest = os.path.expanduser(user), text.removeprefix(user)
        if home == user:
            raise ValueError(
                f"{user} is the home directory of nobody here; write the whole path, or "
                f"./{user} for a folder of that name"
            )

    def value_of(found: re.Match[str]) -> str:
        name = found[1] if found[2] is None else found[2]
        value = variables.get(name, "")
        if not value:
            raise ValueError(
                f"the variable {name!r} of the environment is not set, or empty; set it, or write "
                "the whole path (where a folder's name has a dollar sign, make the folder first)"
            )
        return value

    return text if _names_a_folder(text) else home + _VARIABLE.sub(value_of, rest)


def expand_url(url: str, variables: Mapping[str, str]) -> str:
    """As `expand_path`, of a plain path, a ``file:`` URI or the URL of an SQLite file.

    Any other URL, and one in which there is nothing to replace, is returned as it is.

    Raises:
        ValueError: as `expand_path`; when a ``file:`` URI names another machine, or an SQLite URL
            has no three slashes.
    """
    scheme = scheme_of(url)
    if not scheme:
        return expand_path(url, variables)
    if scheme == "file":
        host, rest = _split_host(url)
        if host.startswith(("~", "$")):
            url = f"file:{host}{rest}"
        elif host not in _LOCAL_HOSTS:
            raise ValueError(
                f"{host!r} stands where the machine is named, and files of another one cannot be "
                "read; write file:///absolute/path, or a path without file:"
            )
        expanded = _expand_url_path(str(path_of(url)), variables)
        return url if expanded is None else Path(expanded).absolute().as_uri()
    return _expand_sqlite(url, variables) if is_sqlite(url) else url


def _expand_sqlite(url: str, variables: Mapping[str, str]) -> str:
    found = _SQLITE.fullmatch(url)
    if found is None:
        raise ValueError(
            "the URL of an SQLite file has three slashes and then its path; write "
            "sqlite:////absolute/path/name.db or sqlite:///relative/path/name.db"
        )
    database, query = found[1], found[2] or ""
    path = sqlite_path(database, dict(parse_qsl(query)))
    expanded = _expand_url_path(str(path), variables)
    return url if expanded is None else sqlite_url(Path(expanded), query)


def _is_sqlite_uri(options: Mapping[str, object]) -> bool:
    """Whether the options of an SQLite URL say that its database is a ``file:`` URI."""
    return str(options.get("uri")).lower() in _TRUE


def _expand_url_path(path: str, variables: Mapping[str, str]) -> str | None:
    """The path of a URL, expanded; None where nothing in it is to be replaced.

    The slash before a leading ``~`` or ``$NAME`` may be the URL's own.
    """
    if path.startswith("/~"):
        path = path[1:]
    expanded = expand_path(path, variables)
    return None if expanded == path else re.sub("^/+", "/", expanded)


def _names_a_folder(text: str) -> bool:
    """Whether it begins with no variable, and exists up to the last part that looks like one.

    Of this kind are paths that other programs hand on, as MLflow does in the environment.
    """
    parts = text.split("/")
    with_dollar = [number for number, part in enumerate(parts) if "$" in part]
    if not with_dollar or text.startswith(("~", "$")):
        return False
    return os.path.exists("/".join(parts[: with_dollar[-1] + 1]))


def _split_host(file_uri: str) -> tuple[str, str]:
    rest = file_uri.partition(":")[2]
    if not rest.startswith("//"):
        return "", rest
    host, slash, rest = rest[2:].partition("/")
    return host, slash + rest


def require_utf8(path: Path) -> None:
    """Check that a path is a text that URLs and databases can carry.

    Raises:
        ValueError: when it has bytes that are not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the path {os.fsencode(path)!r} has bytes that are not UTF-8, which URLs cannot "
            "carry; rename that folder"
        ) from error
