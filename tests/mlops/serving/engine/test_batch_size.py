"""The size of a batch follows from what batches cost."""

from __future__ import annotations

import pytest

from mlops.serving.engine.batch_size import NEWEST, PROBE_EVERY, SIZES, BatchSizer

MS = 1e-3


def sizer_of(cost, limit: int = 32) -> BatchSizer:
    """A sizer that measured every size; ``cost(rows)`` is milliseconds a batch."""
    sizer = BatchSizer(limit)
    for size in reversed(SIZES):
        sizer.record(size, MS * cost(size))
    return sizer


@pytest.mark.parametrize(
    ("name", "cost", "best"),
    [
        ("a fixed cost is shared", lambda rows: 1.0 + 0.001 * rows, 32),
        ("each row costs the same", lambda rows: 1.0 * rows, 1),
        ("a gain under a tenth", lambda rows: 1.0 * rows + 0.05, 1),
        ("no gain past 8", lambda rows: rows * max(1 / 8, 1 / rows), 8),
        ("larger is dearer", lambda rows: rows**1.2, 1),
        ("only 16 gains", lambda rows: rows * (0.5 if rows == 16 else 1.0), 16),
    ],
)
def test_the_smallest_batch_that_none_beats_is_best(name, cost, best):
    assert sizer_of(cost).best == best


def test_the_first_row_goes_alone_then_the_largest_unknown_is_tried():
    sizer, tried = BatchSizer(), []
    for _ in SIZES:
        tried.append(sizer.cap())
        sizer.record(sizer.cap(), 1e-4)
    assert tried == [1, 32, 16, 8, 4, 2]


@pytest.mark.parametrize(("each", "cap"), [(1e-3, 32), (8e-3, 8), (0.04, 2), (0.3, 1)])
def test_a_slow_model_is_not_tried_in_batches_that_block_the_others(each, cap):
    sizer = BatchSizer()
    sizer.record(1, each)
    assert sizer.cap() == cap


def test_rows_within_a_time_are_at_least_one():
    sizer = BatchSizer()
    assert sizer.rows_within(1.0) == 1
    sizer.record(1, 0.01)
    assert (sizer.rows_within(0.05), sizer.rows_within(0.001)) == (5, 1)


def test_batches_of_one_row_do_not_lower_the_cap():
    sizer = BatchSizer()
    for _ in range(10):
        sizer.record(1, MS)
    assert sizer.cap() == 32


def test_a_batch_counts_for_the_largest_size_it_reaches():
    sizer = BatchSizer()
    sizer.record(31, 31.0)
    sizer.record(500, 1000.0)
    assert sizer.seconds == {16: 1.0, 32: 2.0}


def test_every_size_is_measured_again():
    sizer, sizes = sizer_of(lambda rows: 1.0 * rows), set()
    for _ in range(PROBE_EVERY * len(SIZES)):
        sizes.add(sizer.cap())
        sizer.record(sizer.cap(), MS * sizer.cap())
    assert sizes == set(SIZES)


def test_batching_comes_back_when_it_pays_again():
    sizer = sizer_of(lambda rows: 1.0 * rows)
    for _ in range(PROBE_EVERY * len(SIZES) * 4):
        sizer.record(sizer.cap(), MS)
    assert sizer.best > 1


def test_one_slow_batch_changes_the_mean_little():
    sizer = sizer_of(lambda rows: 1.0)
    before = sizer.seconds[32]
    sizer.record(32, 32 * (before + MS))
    assert sizer.seconds[32] == pytest.approx(before + NEWEST * MS)


def test_a_limit_of_one_is_no_batching():
    sizer = sizer_of(lambda rows: 1.0, limit=1)
    assert {sizer.cap() for _ in range(2 * PROBE_EVERY) if not sizer.record(1, MS)} == {1}
