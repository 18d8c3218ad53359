"""A clock of the database that a test sets forward or back, on both databases.

A folder whose tests set it imports the fixture `clock` into its conftest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from mlops.store.sql import db_now

JUMPS_S = {"hour ahead": 3600.0, "hour back": -3600.0, "5 min ahead": 300.0, "5 min back": -300.0}
each_jump = pytest.mark.parametrize("jump_s", JUMPS_S.values(), ids=JUMPS_S)


class DatabaseClock:
    """What every connection of this process takes for the database's clock.

    Attributes:
        offset_s: Seconds by which it is ahead of the true one.
    """

    def __init__(self) -> None:
        self.offset_s = 0.0

    def jump(self, seconds: float) -> None:
        """Set the clock forward, or back where ``seconds`` are negative."""
        self.offset_s += seconds


@pytest.fixture
def clock() -> Iterator[DatabaseClock]:
    """The database's clock, for a test that sets it; before the first statement that reads it."""
    clock = DatabaseClock()
    with pytest.MonkeyPatch.context() as patch:
        compilers = db_now._compiler_dispatcher.specs  # type: ignore[attr-defined]
        for dialect in ("sqlite", "postgresql"):
            shifted = shift_compiled(compilers[dialect], lambda: clock.offset_s)
            patch.setitem(compilers, dialect, shifted)
        yield clock
    # Statements that were compiled meanwhile go on reading it.
    clock.offset_s = 0.0


def shift_compiled(compile_now: Any, ahead_s: Callable[[], float]) -> Any:
    """Compile `db_now` to a time that is ahead by what ``ahead_s`` returns at each execution."""

    def compile_shifted(element: db_now, compiler: Any, **named: Any) -> str:
        ahead = sa.bindparam(None, type_=sa.Float(), unique=True, callable_=ahead_s)
        return f"({compile_now(element, compiler, **named)} + {compiler.process(ahead)})"

    return compile_shifted
