"""Log lines that say what they are about: service, model_id and flow run, as text or as JSON.

What works on one service or version binds it, and every line below carries it, from whichever
module; `extra={"service": ...}` says it for a single line. A new thread begins with nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TextIO

FIELDS = ("service", "model_id", "flow_run_id", "task_run_name")
"""What a line may be about, in the order it is written; Prefect names the task run."""

LIBRARY = "mlops"
"""The logger above all of the library's."""

_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))


class LogFormat(StrEnum):
    """Lines for people, or one JSON object a line for what collects logs."""

    TEXT = "text"
    JSON = "json"


@contextmanager
def bound(
    *, service: str | None = None, model_id: str | None = None, flow_run_id: str | None = None
) -> Iterator[None]:
    """Let every line logged in the block carry these, beside what is bound around it."""
    given = {"service": service, "model_id": model_id, "flow_run_id": flow_run_id}
    known = {name: value for name, value in given.items() if value is not None}
    token = _bound.set({**_bound.get(), **known})
    try:
        yield
    finally:
        _bound.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """What a line is about: what it says itself, else what is bound where it is written."""
    found = {name: getattr(record, name, None) or _bound.get().get(name) for name in FIELDS}
    return {name: str(value) for name, value in found.items() if value is not None}


class JsonFormatter(logging.Formatter):
    """One line of JSON: time (UTC), level, logger, message, fields, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people, ending with those fields that its own words do not name."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        written = super().formatMessage(record)
        named = [f"{name}={value}" for name, value in fields_of(record).items()]
        return " ".join([written, *(one for one in named if one not in record.message)])


class Console(logging.StreamHandler[TextIO]):
    """Standard error, whatever that is when a line is written."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure(log_format: LogFormat | str, level: str = "INFO") -> None:
    """Write every line of this process to standard error in this format, warnings among them.

    ``level`` is the library's; of everybody else's only warnings and worse are written, unless
    they have a level of their own. What wrote to the console before gives way; called again, the
    last call holds.
    """
    console = Console()
    console.setFormatter(JsonFormatter() if log_format == LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    for handler in [one for one in root.handlers if _is_console(one)]:
        root.removeHandler(handler)
    root.addHandler(console)
    wanted = logging.getLevelNamesMapping()[level]
    root.setLevel(max(wanted, logging.WARNING))
    logging.getLogger(LIBRARY).setLevel(wanted)
    logging.captureWarnings(True)


def _is_console(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
