"""All rows are looked at, once and in order, however many there are."""

import threading

import numpy as np
import pytest

from mlops.data.parts import LONG_ROWS, PART_ROWS, is_true_of_all, map_parts

COUNTS = [0, 1, PART_ROWS, PART_ROWS + 1, LONG_ROWS, LONG_ROWS + PART_ROWS // 2]


@pytest.mark.parametrize("count", COUNTS)
def test_parts_come_in_order(count):
    assert map_parts(lambda begin: begin, count) == list(range(0, count, PART_ROWS))


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("overlap", [0, 1])
def test_one_false_row_is_found_wherever_it_is(count, overlap):
    rows = np.ones(count, bool)
    assert is_true_of_all(lambda part: bool(part.all()), rows, overlap=overlap)
    for place in {0, count // 2, count - 1}:
        rows[place] = False
        assert not is_true_of_all(lambda part: bool(part.all()), rows, overlap=overlap)
        rows[place] = True


@pytest.mark.parametrize("place", [1, PART_ROWS, LONG_ROWS - 1])
def test_a_step_between_parts_is_seen_by_their_overlap(place):
    rows = np.zeros(LONG_ROWS, int)
    rows[place:] = 1
    assert not is_true_of_all(lambda part: bool((np.diff(part) == 0).all()), rows, overlap=1)


def test_an_error_in_a_thread_is_that_of_the_call():
    def fail(begin: int) -> None:
        if begin:
            raise ValueError(threading.current_thread().name)

    with pytest.raises(ValueError, match="Thread"):
        map_parts(fail, LONG_ROWS)
