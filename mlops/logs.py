"""Log lines with the fields service, model_id and flow run, as text or as JSON.

`bound` adds fields to every line logged in its block, from any module; `extra={"service": ...}`
adds them to one line. The fields are context variables, so a new thread starts without them.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TextIO

from mlops.credentials import without_credentials

FIELDS = ("service", "model_id", "flow_run_id", "task_run_name")
"""Names of the fields, in the order they are written; Prefect sets task_run_name."""

LIBRARY = "mlops"
"""The parent of all loggers of the library."""

_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))


REPEAT_S = 60.0
"""Seconds after which `RepeatedLines` writes the same line again."""


class RepeatedLines:
    """Writes a line of a loop once, and again each `REPEAT_S` while it stays the same.

    Args:
        log: The logger that the lines go to.
    """

    def __init__(self, log: logging.Logger) -> None:
        self.log = log
        self._written: dict[str, tuple[str, float]] = {}

    def write(self, subject: str, text: str, *, level: int = logging.WARNING) -> bool:
        """Write a line about a subject, unless it was written shortly before; True if it was."""
        last, at = self._written.get(subject, ("", 0.0))
        if text == last and time.monotonic() - at < REPEAT_S:
            return False
        self._written[subject] = (text, time.monotonic())
        self.log.log(level, "%s", text)
        return True

    def end(self, subject: str) -> bool:
        """Forget the line of a subject that is in order again; True if there was one."""
        return self._written.pop(subject, None) is not None


class LogFormat(StrEnum):
    """Lines for people, or one JSON object a line for log collectors."""

    TEXT = "text"
    JSON = "json"


@contextmanager
def bound(
    *, service: str | None = None, model_id: str | None = None, flow_run_id: str | None = None
) -> Iterator[None]:
    """Add these fields to every line logged in the block; outer blocks' fields stay."""
    given = {"service": service, "model_id": model_id, "flow_run_id": flow_run_id}
    known = {name: value for name, value in given.items() if value is not None}
    token = _bound.set({**_bound.get(), **known})
    try:
        yield
    finally:
        _bound.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """The fields of a line: its own, else the bound ones."""
    values = {name: getattr(record, name, None) or _bound.get().get(name) for name in FIELDS}
    return {name: str(value) for name, value in values.items() if value is not None}


class JsonFormatter(logging.Formatter):
    """One line of JSON: time (UTC), level, logger, message, fields, and a traceback if any."""

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
        return without_credentials(json.dumps(line, ensure_ascii=False))


class MessageFormatter(logging.Formatter):
    """The message, and a traceback if any, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


class TextFormatter(MessageFormatter):
    """A line for people; fields that the message does not name are appended."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        line = super().formatMessage(record)
        fields = [f"{name}={value}" for name, value in fields_of(record).items()]
        return " ".join([line, *(field for field in fields if field not in record.message)])


class Console(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is when a line is written."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure(log_format: LogFormat | str, level: str = "INFO") -> None:
    """Write all log lines and warnings of this process to standard error in one format.

    Handlers that wrote to the console before are removed; a second call replaces the first.

    Args:
        level: Lowest level of the library's lines. Other loggers write warnings and errors only,
            unless they have a level of their own.
    """
    console = Console()
    console.setFormatter(JsonFormatter() if log_format == LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for handler in list(root.handlers):
        if getattr(handler, "stream", None) in streams:
            root.removeHandler(handler)
    root.addHandler(console)
    number = logging.getLevelNamesMapping()[level]
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger(LIBRARY).setLevel(number)
    logging.captureWarnings(True)
