"""Lines are written in segments, within their days and bytes, and never hold a request up."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mlops.serving import request_log
from mlops.serving.request_log import DAY_S, RequestLog

BUDGET = 8_000
LINE = b'{"n":%06d,"filled":"' + b"x" * 78 + b'"}'


@pytest.fixture(autouse=True)
def _flushes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "FLUSH_S", 0.01)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., RequestLog]]:
    """Opens logs in one folder; each is closed when the test ends."""
    opened: list[RequestLog] = []

    def open_log(owner: str = "r1", max_bytes: int = BUDGET) -> RequestLog:
        opened.append(RequestLog(tmp_path, owner, keep_days=1, max_bytes=max_bytes))
        return opened[-1]

    yield open_log
    for log in opened:
        log.close()


def contents(folder: Path) -> list[bytes]:
    """The segments that are there; another thread may remove some meanwhile."""
    found = []
    for path in folder.glob("*.jsonl"):
        with suppress(FileNotFoundError):
            found.append(path.read_bytes())
    return found


def lines(folder: Path) -> list[bytes]:
    return [line for content in contents(folder) for line in content.splitlines()]


def size(folder: Path) -> int:
    return sum(map(len, contents(folder)))


def write(log: RequestLog, *numbers: int) -> None:
    """Add lines, and wait until they are on disk or lost."""
    lost = log.dropped
    for number in numbers:
        log.add(LINE % number)
    deadline = time.monotonic() + 20
    while log.dropped == lost and LINE % numbers[-1] not in lines(log.folder):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_waiting_lines_are_written_at_the_end(
    make: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "FLUSH_S", 60.0)
    log = make()
    for number in range(3):
        log.add(b'{"n":%d}' % number)
    log.close()
    assert lines(tmp_path) == [b'{"n":0}', b'{"n":1}', b'{"n":2}']


def test_a_full_segment_is_followed_by_another(
    make: Callable[..., RequestLog], tmp_path: Path
) -> None:
    log = make()
    for first in range(0, 30, 10):
        write(log, *range(first, first + 10))
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_lines_that_do_not_fit_are_dropped_and_counted(
    make: Callable[..., RequestLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "MAX_WAITING", 0)
    log = make()
    log.add(b"{}")
    assert log.dropped == 1


def test_segments_past_their_days_are_removed(
    make: Callable[..., RequestLog], tmp_path: Path
) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    for path in (old, new):
        path.write_bytes(b"{}\n")
    two_days_ago = time.time() - 2 * DAY_S
    os.utime(old, (two_days_ago, two_days_ago))
    make().segments.remove_old()
    assert (old.exists(), new.exists()) == (False, True)


def test_old_segments_are_removed_while_no_request_comes(
    make: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.jsonl"
    old.write_bytes(b"{}\n")
    os.utime(old, (1e9, 1e9))
    monkeypatch.setattr(request_log, "SWEEP_S", 0.01)
    make()
    deadline = time.monotonic() + 20
    while old.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_oldest_segments_go_and_the_newest_line_stays(
    make: Callable[..., RequestLog], tmp_path: Path
) -> None:
    log = make()
    for number in range(0, 400, 10):
        write(log, *range(number, number + 10))
        assert size(tmp_path) <= BUDGET
    kept = sorted(lines(tmp_path))
    assert kept == [LINE % number for number in range(400 - len(kept), 400)]
    assert len(kept) > BUDGET / len(LINE) / 2
    assert log.dropped == 0


def test_the_log_stays_within_its_budget_at_full_rate(
    make: Callable[..., RequestLog], tmp_path: Path
) -> None:
    """Whatever number of lines waits when the thread comes by: it is larger than the budget."""
    log, sizes = make(max_bytes=200_000), []
    for number in range(50_000):
        log.add(LINE % number)
        if number % 500 == 0:
            sizes.append(size(tmp_path))
    log.close()
    assert max(sizes) <= 200_000
    assert size(tmp_path) <= 200_000
    assert LINE % 49_999 in lines(tmp_path)


def test_a_dangling_link_ends_nothing(make: Callable[..., RequestLog], tmp_path: Path) -> None:
    log = make()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    log.segments.remove_old()
    write(log, 1)
    (tmp_path / "link.jsonl").unlink()
    assert lines(tmp_path) == [LINE % 1]


def test_two_processes_share_a_folder_and_its_budget(
    make: Callable[..., RequestLog], tmp_path: Path
) -> None:
    logs = [make("r1"), make("r2")]

    def fill(log: RequestLog, first: int) -> None:
        for number in range(first, first + 300, 10):
            for each in range(number, number + 10):
                log.add(LINE % each)
            time.sleep(0.002)

    threads = [threading.Thread(target=fill, args=(log, 1000 * at)) for at, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    write(logs[0], 1)
    write(logs[1], 2)
    assert {path.name[:3] for path in tmp_path.glob("*.jsonl")} == {"r1-", "r2-"}
    assert size(tmp_path) <= BUDGET
    assert [log.dropped for log in logs] == [0, 0]


def test_a_segment_that_another_process_removed_is_followed_by_another(
    make: Callable[..., RequestLog], tmp_path: Path
) -> None:
    log = make()
    write(log, 1)
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    write(log, 2)
    assert lines(tmp_path) == [LINE % 2]


def test_a_full_disk_loses_lines_that_are_counted_and_is_survived(
    make: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make()
    write(log, 1)
    with monkeypatch.context() as patch:

        def full(self: request_log.Segments) -> None:
            """A part of the record reaches the disk."""
            assert self.stream is not None
            os.write(self.stream.fileno(), b'{"half')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(request_log.Segments, "flush", full)
        write(log, 2, 3)
    assert log.dropped == 2
    write(log, 4)
    log.close()
    assert (lines(tmp_path)[0], lines(tmp_path)[-1]) == (LINE % 1, LINE % 4)
    assert not [line for line in lines(tmp_path) if line.startswith(b'{"half')]


def test_a_folder_that_is_gone_loses_lines_until_it_is_back(
    make: Callable[..., RequestLog], tmp_path: Path
) -> None:
    log = make()
    tmp_path.rename(tmp_path.with_name("away"))
    write(log, 1)
    assert log.dropped == 1
    tmp_path.with_name("away").rename(tmp_path)
    write(log, 2)
    assert lines(tmp_path) == [LINE % 2]
