"""Lines are written in segments, kept for their days, and never hold a request up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.serving import request_log
from mlops.serving.request_log import RequestLog


@pytest.fixture
def made(tmp_path: Path) -> Iterator[RequestLog]:
    opened = RequestLog(tmp_path, "r1", keep_days=1)
    yield opened
    opened.close()


def lines(folder: Path) -> list[bytes]:
    return [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]


def test_waiting_lines_are_written_at_the_end(made: RequestLog, tmp_path: Path) -> None:
    for number in range(3):
        made.add(b'{"n":%d}' % number)
    made.close()
    assert lines(tmp_path) == [b'{"n":0}', b'{"n":1}', b'{"n":2}']


def test_a_full_segment_is_followed_by_another(
    made: RequestLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "SEGMENT_BYTES", 10)
    for _ in range(3):
        made.add(b'{"some":"line"}')
        made._flush()
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_lines_that_do_not_fit_are_dropped_and_counted(
    made: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "MAX_WAITING", 0)
    made.add(b"{}")
    assert made.dropped == 1


def test_segments_past_their_days_are_removed(made: RequestLog, tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    for path in (old, new):
        path.write_bytes(b"{}\n")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(old, (two_days_ago, two_days_ago))
    made._remove_old(time.time())
    assert (old.exists(), new.exists()) == (False, True)
