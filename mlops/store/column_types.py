"""The types of columns: times in UTC, JSON as text, and what both databases keep alike.

SQLite keeps text of any length and with any character; Postgres refuses a length above the
column's, NUL, and halves of surrogate pairs. SQLite turns NaN into NULL; Postgres keeps it.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mlops.errors import RowRefused

_SHOWN = 40
"""Most characters of a refused text that its message repeats."""


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A column for aware UTC datetimes, stored without a time zone."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise RowRefused(f"time {value.isoformat()} has no zone; pass an aware UTC datetime")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class JsonText(sa.types.TypeDecorator[Any]):
    """A column for JSON values, NaN included, stored as text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


class SearchedText(sa.types.TypeDecorator[str]):
    """Text that a column is compared with: of any length, for a longer one just equals no row."""

    impl = sa.String
    cache_ok = True

    def __init__(self, plain: sa.String, field: str) -> None:
        super().__init__()
        self.plain = plain
        self.field = field

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[str]:
        return self.plain

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is not None:
            self._check_characters(value)
        return value

    def _check_characters(self, value: str) -> None:
        wrong = value.find("\0")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            wrong = error.start
        if wrong >= 0:
            raise RowRefused(
                f"{self.field} has a character at place {wrong} that a database cannot keep: "
                f"{value[:_SHOWN]!r}; leave it out"
            )


class CheckedText(SearchedText):
    """A column for text.

    Args:
        plain: The type of the database, with the most characters that are allowed.
        field: Names table and column in messages.
    """

    cache_ok = True

    def check(self, value: str) -> None:
        """Check that both databases can keep the text.

        Raises:
            RowRefused: naming the field, the text and the limit.
        """
        if not isinstance(value, str):
            raise RowRefused(f"{self.field} takes text, not {type(value).__name__} {value!r}")
        most = self.plain.length
        if most is not None and len(value) > most:
            raise RowRefused(
                f"{self.field} has {len(value)} characters, at most {most} are allowed: "
                f"{value[:_SHOWN]!r}...; shorten it"
            )
        self._check_characters(value)

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is not None:
            self.check(value)
        return value

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return SearchedText(self.plain, self.field)


class CheckedFloat(sa.types.TypeDecorator[float]):
    """A column for numbers without NaN.

    Args:
        field: Names table and column in messages.
    """

    impl = sa.Float
    cache_ok = True

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field = field

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> float | None:
        if value is not None and math.isnan(value):
            raise RowRefused(f"{self.field} is NaN; a number or None is allowed")
        return value


def check_columns(metadata: sa.MetaData) -> None:
    """Give every column for text or numbers its checked type."""
    for table in metadata.tables.values():
        for column in table.columns:
            field = f"{column.name} of {table.name}"
            if isinstance(column.type, sa.String):
                column.type = CheckedText(column.type, field)
            elif isinstance(column.type, sa.Float):
                column.type = CheckedFloat(field)
