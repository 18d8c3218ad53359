"""What a migration takes from the code of the release before it.

Older code goes on reading and writing a migrated store. So everything that it knows must be there
as it was, and nothing may be demanded of its rows that was not demanded before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_COLUMN = re.compile(r"column (\S+) \d+ (.*)")


def find_losses(before: str, after: str) -> list[str]:
    """What the schema ``after`` a migration lacks or demands beyond the schema ``before`` it.

    Args:
        before: The schema as `schema_dump.describe_schema` writes it.
        after: The same, after the migration.
    """
    words = _words(after) - _words(before)
    old, new = _lines(before, set()), _lines(after, words)
    columns = _columns(after) - _columns(before)
    tables = {table for line in old if (table := _table(line))}
    lost = [f"lost: {line}" for line in sorted(old - new)]
    demanded = [
        f"demanded: {line}"
        for line in sorted(_lines(after, set()))
        if _without(line, words) not in old
        and _table(line) in tables
        and not _asks_nothing(line, words)
        and not _is_unique_over(line, columns)
    ]
    return lost + demanded


def _asks_nothing(line: str, words: set[str]) -> bool:
    """Whether rows of older code meet it in any case."""
    if line.startswith("column "):
        return "NOT NULL" not in line or " DEFAULT " in line
    # Older code writes no row with a new word.
    is_index = re.search(r"CREATE (UNIQUE )?INDEX", line)
    return bool(is_index and (is_index[1] is None or words & _words(line)))


def _is_unique_over(line: str, columns: set[tuple[str, str]]) -> bool:
    """Whether it is a unique index over columns that are null in every row of older code."""
    index = re.search(r"CREATE UNIQUE INDEX \S+ ON (?:public\.)?(\w+).*\((.*)\)$", line)
    return index is not None and {(index[1], name) for name in index[2].split(", ")} <= columns


def _columns(schema: str) -> set[tuple[str, str]]:
    """Table and name of each column that may be null and has no default."""
    found = (_COLUMN.match(line.replace('"', "")) for line in schema.splitlines())
    return {
        (column[1], column[2].split()[0])
        for column in found
        if column and "NOT NULL" not in column[2] and "DEFAULT" not in column[2]
    }


def _lines(schema: str, words: set[str]) -> set[str]:
    """The schema's lines, without these words and without the places of columns."""
    return {_without(line, words) for line in schema.splitlines()}


def _without(line: str, words: set[str]) -> str:
    line = _COLUMN.sub(r"column \1 \2", line.replace('"', ""))
    for word in words:
        line = re.sub(rf"'{word}'(::[a-z ]+)?, ", "", line)
    return line


def _words(schema: str) -> set[str]:
    """The quoted words of checks and indexes."""
    return {word for line in schema.splitlines() for word in _quoted(line)}


def _quoted(line: str) -> Iterator[str]:
    if line.startswith("constraint ") or "INDEX" in line:
        yield from re.findall(r"'(\w+)'", line)


def _table(line: str) -> str | None:
    """The table that a column, constraint, index or trigger belongs to."""
    found = re.search(r"^(?:column|constraint) (\S+)|TRIGGER .*? ON (\S+)|INDEX .*? ON (\S+)", line)
    name = found and next(group for group in found.groups() if group)
    return name.removeprefix("public.") if name else None
