"""A store's schema as lines of text, so that two stores can be compared.

The files `schema_0009.*.txt` beside this one hold what migrations 0001 to 0009 built. They were
made at commit 9ae3cdf, the last that had those migrations. To make them again, in a checkout of
that commit where `make install` has run:

    PYTHONPATH=. .venv/bin/python <here>/tests/mlops/store/schema_dump.py

On SQLite a table's constraints are sorted and blanks and quotes are levelled, because a table that
was altered lists the same things in another order than one that was created whole. The columns
keep their order.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

HERE = Path(__file__).parent
_POSTGRES_QUERIES = (
    # Columns, in their order.
    """
    SELECT 'column ' || c.relname || ' ' || row_number() OVER (
               PARTITION BY c.oid ORDER BY a.attnum) || ' ' || a.attname
        || ' ' || format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
        || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
      AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum
    """,
    # Constraints. Postgres 18 lists NOT NULL among them, older ones with the column only.
    """
    SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype NOT IN ('n', 't')
    ORDER BY 1
    """,
    "SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    """
    SELECT 'sequence ' || sequencename || ' ' || data_type || ' ' || start_value || ' '
        || increment_by
    FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1
    """,
    """
    SELECT 'trigger ' || pg_get_triggerdef(oid) || ' enabled=' || tgenabled::text
    FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1
    """,
    """
    SELECT pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace ORDER BY 1
    """,
    """
    SELECT 'other ' || relkind::text || ' ' || relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('r', 'i', 'S') ORDER BY 1
    """,
)


def describe_schema(connection: sa.Connection) -> str:
    """Every table, column, constraint, index, trigger and function, a line each."""
    if connection.dialect.name == "sqlite":
        lines = list(_describe_sqlite(connection))
    else:
        lines = [
            " ".join(str(line).split())
            for query in _POSTGRES_QUERIES
            for line in connection.execute(sa.text(query)).scalars()
        ]
    return "\n".join(lines) + "\n"


def _describe_sqlite(connection: sa.Connection) -> Iterator[str]:
    rows = connection.execute(
        sa.text("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY 1, 2")
    )
    for kind, name, sql in rows.all():
        if kind == "table":
            yield from _describe_sqlite_table(name, sql)
        else:
            yield _level_blanks(sql)


def _describe_sqlite_table(name: str, sql: str) -> Iterator[str]:
    created = re.fullmatch(r"CREATE TABLE (\S+)\s*\((.*)\)", sql, re.DOTALL)
    assert created is not None, f"not a plain CREATE TABLE, say how to describe it: {sql}"
    assert created[1].strip('"') == name
    columns, constraints = [], []
    for clause in _split_at_outer_commas(created[2]):
        is_constraint = re.match(r"(CONSTRAINT|PRIMARY|FOREIGN|UNIQUE|CHECK)\b", clause)
        (constraints if is_constraint else columns).append(clause)
    yield from (f"column {name} {at} {text}" for at, text in enumerate(columns, start=1))
    yield from (f"constraint {name} {text}" for text in sorted(constraints))


def _split_at_outer_commas(body: str) -> list[str]:
    """The clauses of a table; commas within brackets separate none."""
    clauses, depth = [""], 0
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            clauses.append("")
        else:
            clauses[-1] += character
    return [_level_blanks(clause) for clause in clauses]


def _level_blanks(sql: str) -> str:
    return " ".join(sql.split())


def kept_schema(dialect: str) -> str:
    """What migrations 0001 to 0009 built on ``sqlite`` or ``postgresql``."""
    return (HERE / f"schema_0009.{dialect}.txt").read_text()


def main() -> None:
    """Write the two files from stores that the `mlops` on the path creates."""
    from mlops.store import open_store
    from tests.postgres import shared_server

    with tempfile.TemporaryDirectory() as made, shared_server(Path(made)) as server:
        server.create("described")
        for url in (f"sqlite:///{made}/store.db", server.url("described")):
            store = open_store(url)
            with store.read() as connection:
                kept = HERE / f"schema_0009.{connection.dialect.name}.txt"
                kept.write_text(describe_schema(connection))
            store.close()


if __name__ == "__main__":
    main()
