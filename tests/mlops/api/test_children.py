"""Children: what they answer, what they may use, and that none is left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.api.children import ChildLimits, Children, Work
from mlops.errors import ChildError, ChildKilled, ChildrenBusy, QueueFull, VersionNotFound
from tests.mlops.api import child_functions as work

MEMORY = 2 * 1024**3
SMALL = ChildLimits(memory_bytes=MEMORY, cpu_s=30, wall_s=60.0)


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children(SMALL, preload=("tests.mlops.api.child_functions",))
    yield made
    made.close()


def await_end(pid: int) -> bool:
    """Whether a process ends within some seconds; one that nobody reaped has ended too."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        threading.Event().wait(0.02)
    return False


def test_a_function_runs_in_a_child_with_its_limits(children: Children) -> None:
    assert children.run(Work.COMPUTATION, work.add, 2, 3) == 5
    assert children.run(Work.UPLOAD, work.describe_limits) == {
        "data": MEMORY,
        "cpu": 30,
        "nice": min(os.nice(0) + 10, 19),
        "leads_group": True,
    }


def test_an_error_of_the_library_comes_back_as_itself(children: Children) -> None:
    with pytest.raises(VersionNotFound, match="there is no version lstm_1"):
        children.run(Work.UPLOAD, work.miss_version)
    with pytest.raises(QueueFull, match="3 windows are waiting"):
        children.run(Work.UPLOAD, work.fill_queue)


def test_any_other_error_is_told_by_its_name(children: Children) -> None:
    with pytest.raises(ChildError, match="ZeroDivisionError: division by zero"):
        children.run(Work.UPLOAD, work.divide_by_zero)


def test_too_much_memory_is_an_error(children: Children) -> None:
    with pytest.raises(ChildKilled, match="more than its 2 GiB"):
        children.run(Work.UPLOAD, work.take_memory, 3 * 1024**3)


def test_a_child_that_ends_without_an_answer_is_an_error(children: Children) -> None:
    with pytest.raises(ChildKilled, match="status 3 before it answered"):
        children.run(Work.UPLOAD, work.end_at_once)
    assert children.run(Work.UPLOAD, work.add, 1, 1) == 2


def test_too_much_processor_time_is_an_error(children: Children) -> None:
    short = Children(ChildLimits(memory_bytes=MEMORY, cpu_s=1, wall_s=60.0))
    with pytest.raises(ChildKilled, match="more than its 1 s of CPU time"):
        short.run(Work.COMPUTATION, work.burn_cpu)


def test_one_child_works_on_each_kind_and_a_second_is_told_when_to_come(
    children: Children, tmp_path: Path
) -> None:
    with children.reserve(Work.COMPUTATION) as place:
        slow = children.start(place, work.wait_for_file, tmp_path / "go")
    with pytest.raises(ChildrenBusy, match="another computation is being worked on") as refused:
        children.reserve(Work.COMPUTATION)
    assert refused.value.retry_after_s == 5
    assert children.run(Work.UPLOAD, work.add, 1, 2) == 3
    (tmp_path / "go").write_text("done")
    assert slow.result(timeout=30) == "done"
    children.reserve(Work.COMPUTATION).release()


def test_a_place_that_no_child_took_is_free_after_its_block(children: Children) -> None:
    with children.reserve(Work.UPLOAD):
        pass
    children.reserve(Work.UPLOAD).release()


def test_closing_ends_a_child_and_what_it_started(children: Children, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with children.reserve(Work.UPLOAD) as place:
        future = children.start(place, work.start_another_and_wait, note)
    pids = [int(pid) for pid in children.run(Work.COMPUTATION, work.wait_for_file, note).split()]
    children.close()
    with pytest.raises(ChildKilled, match="this server ended before the work was done"):
        future.result(timeout=10)
    assert all(await_end(pid) for pid in pids)


def test_work_that_takes_too_long_is_ended(children: Children, tmp_path: Path) -> None:
    hasty = Children(ChildLimits(memory_bytes=MEMORY, wall_s=1.0))
    with pytest.raises(ChildKilled, match="ended after 1 s"):
        hasty.run(Work.UPLOAD, work.wait_for_file, tmp_path / "never")
