"""Every line says what it is about, whichever module wrote it, and threads keep theirs apart."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from mlops import logs
from mlops.logs import REPEAT_S, JsonFormatter, RepeatedLines, TextFormatter, bound

log = logging.getLogger("mlops.somewhere")


class Lines(logging.Handler):
    """Keeps each line as it would be written."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written]


@pytest.fixture
def lines() -> Iterator[Lines]:
    kept = Lines(JsonFormatter())
    log.addHandler(kept)
    log.setLevel(logging.INFO)
    yield kept
    log.removeHandler(kept)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards."""
    found = logging.getLogger()
    before, level = list(found.handlers), found.level
    # A test before may have left it on, in a way that the end of its own warnings filter undid.
    logging.captureWarnings(False)
    yield found
    found.handlers[:] = before
    found.setLevel(level)
    logging.getLogger(logs.LIBRARY).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def test_a_line_has_the_fields_bound_around_it(lines: Lines) -> None:
    with bound(service="s", flow_run_id="run"):
        with bound(model_id="m", service=None):
            log.info("fitted %d bars", 7)
        log.info("done")
    log.info("idle")
    inner, outer, idle = lines.json
    assert datetime.fromisoformat(inner.pop("time")).tzinfo is not None
    assert inner == {
        "level": "INFO",
        "logger": "mlops.somewhere",
        "message": "fitted 7 bars",
        "service": "s",
        "model_id": "m",
        "flow_run_id": "run",
    }
    assert (outer["service"], outer["flow_run_id"], "model_id" in outer) == ("s", "run", False)
    assert not set(logs.FIELDS) & set(idle)


def test_the_fields_of_a_line_replace_the_bound_ones(lines: Lines) -> None:
    with bound(service="s"):
        log.info("about another", extra={"service": "t"})
    assert lines.json[0]["service"] == "t"


def test_bound_fields_end_with_an_error_which_is_one_line(lines: Lines) -> None:
    def fail() -> None:
        with bound(service="s"):
            try:
                raise ValueError("no number\nat all")
            except ValueError:
                log.exception("it failed")
                raise

    with pytest.raises(ValueError, match="no number"):
        fail()
    log.info("idle")
    failed, idle = lines.json
    assert "\n" not in lines.written[0]
    assert failed["service"] == "s"
    assert failed["exception"].endswith("ValueError: no number\nat all")
    assert "service" not in idle


def test_two_threads_do_not_share_bound_fields(lines: Lines) -> None:
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with bound(service=name):
            for _ in range(20):
                both.wait()
                log.info(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    with bound(service="main"):
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert len(lines.json) == 40
    assert all(line["service"] == line["message"] for line in lines.json)


def test_text_names_a_field_once(lines: Lines) -> None:
    lines.setFormatter(TextFormatter())
    with bound(service="s", model_id="m"):
        log.info("service=%s is ready", "s")
    [line] = lines.written
    assert line.endswith(" INFO service=s is ready model_id=m")


@pytest.mark.filterwarnings("default")
def test_configure_gives_all_lines_of_a_process_one_format(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("text", "INFO")
    logs.configure("json", "INFO")
    for name in ("httpx", "mlops.replica"):
        logging.getLogger(name).info("done")
        logging.getLogger(name).warning("trouble")
    warnings.warn("old", stacklevel=1)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["level"]) for line in told] == [
        ("httpx", "WARNING"),
        ("mlops.replica", "INFO"),
        ("mlops.replica", "WARNING"),
        ("py.warnings", "WARNING"),
    ]


def test_a_line_of_a_loop_is_written_when_it_changes_and_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, lines = [1000.0], RepeatedLines(log)
    monkeypatch.setattr("mlops.logs.time.monotonic", lambda: now_s[0])
    for _ in range(3):
        lines.write("feed", "it waits")
    lines.write("spool", "it waits")
    now_s[0] += REPEAT_S
    assert lines.write("feed", "it waits")
    assert lines.write("feed", "it is full")
    assert (lines.end("feed"), lines.end("feed")) == (True, False)
    assert lines.write("feed", "it is full")
    assert len(caplog.messages) == 5
