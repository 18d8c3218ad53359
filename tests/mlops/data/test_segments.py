"""A stored series is whole after any interruption and tells when it was altered."""

import json

import pandas as pd
import pytest

from mlops.data.segments import KEPT_INVALID, Head, Series
from mlops.errors import SourceError
from tests.mlops.data.conftest import make_bars

DAY = pd.Timestamp("2024-01-01", tz="UTC")


def day(number: float) -> pd.Timestamp:
    return DAY + pd.Timedelta(days=number)


@pytest.mark.parametrize(
    ("covered", "asked", "gaps"),
    [
        ([], (0, 9), [(0, 9)]),
        ([(0, 9)], (0, 9), []),
        ([(0, 9)], (3, 5), []),
        ([(3, 5)], (0, 9), [(0, 3), (5, 9)]),
        ([(1, 2), (4, 5)], (0, 9), [(0, 1), (2, 4), (5, 9)]),
        ([(1, 2), (4, 5)], (2, 4), [(2, 4)]),
        ([(1, 5)], (3, 9), [(5, 9)]),
        ([(5, 9)], (0, 3), [(0, 3)]),
        ([(0, 3)], (5, 9), [(5, 9)]),
    ],
)
def test_gaps_are_the_intervals_outside_the_coverage(covered, asked, gaps):
    head = Head(coverage=tuple((day(low), day(high)) for low, high in covered))

    assert head.gaps(day(asked[0]), day(asked[1])) == tuple((day(a), day(b)) for a, b in gaps)


@pytest.mark.parametrize(
    ("covered", "new", "joined"),
    [
        ([], (0, 1), [(0, 1)]),
        ([(0, 1)], (1, 2), [(0, 2)]),
        ([(0, 1)], (2, 3), [(0, 1), (2, 3)]),
        ([(0, 1), (2, 3)], (1, 2), [(0, 3)]),
        ([(0, 5)], (1, 2), [(0, 5)]),
    ],
)
def test_touching_intervals_become_one(covered, new, joined):
    head = Head(coverage=tuple((day(low), day(high)) for low, high in covered))

    assert head.covering(day(new[0]), day(new[1])).coverage == tuple(
        (day(low), day(high)) for low, high in joined
    )


@pytest.fixture
def series(tmp_path) -> Series:
    return Series(tmp_path)


def test_pages_come_back_as_one_frame(series):
    frame, head = make_bars(100), Head()
    for first in range(0, 100, 10):
        head = series.append(frame[first : first + 10], head)

    read_head, read = series.read()
    pd.testing.assert_frame_equal(read, frame, check_freq=False)
    assert read_head == head
    assert sum(segment.rows for segment in head.segments) == 100


def test_known_bars_are_not_stored_twice(series):
    frame = make_bars(10)
    head = series.append(frame, Head())

    assert series.append(frame[5:], head) == head


def test_a_differing_bar_replaces_the_stored_one(series):
    frame = make_bars(10)
    head = series.append(frame, Head())
    head = series.append(frame[9:].assign(volume=1.0), head)

    assert head.revised == 1
    assert series.read()[1]["volume"].iloc[-1] == 1.0


def test_a_head_read_back_from_disk_is_equal(series):
    written = Head(
        dropped={"duplicate": 2, "invalid": 1},
        fetched_at=day(3),
        invalid=(day(2),),
        searched=(day(0), day(1)),
    ).covering(day(0), day(3))
    series.commit(written)

    assert series.head() == written


def test_a_head_of_an_earlier_release_is_read(series):
    written = Head(fetched_at=day(3)).covering(day(0), day(3))
    kept = written.to_dict()
    del kept["invalid"], kept["searched"]
    (series.folder / "head.json").write_text(json.dumps(kept))

    assert series.head() == written


def test_each_invalid_candle_is_counted_until_it_is_repaired():
    head = Head(dropped={"duplicate": 2}).with_invalid([day(1), day(2)], pd.DatetimeIndex([]))
    assert head.dropped == {"duplicate": 2, "invalid": 2}
    assert [head.knows(day(number)) for number in range(4)] == [False, True, True, False]

    head = head.with_invalid([], pd.DatetimeIndex([day(0), day(2)]))
    assert (head.dropped, head.invalid) == ({"duplicate": 2, "invalid": 1}, (day(1),))


def test_only_the_newest_invalid_candles_are_remembered_but_all_are_counted():
    opens = list(pd.date_range(DAY, periods=KEPT_INVALID + 5, freq="h"))

    head = Head().with_invalid(opens, pd.DatetimeIndex([]))

    assert head.dropped == {"invalid": KEPT_INVALID + 5}
    assert head.invalid == tuple(opens[5:])


def test_files_of_a_killed_writer_are_ignored_and_deleted(series):
    """Killed after the segment and before the head, or in the middle of either."""
    frame = make_bars(20)
    head = series.append(frame[:10], Head())
    for name in ("0" * 64 + ".parquet", "1" * 64 + ".parquet.part", "head.json.part"):
        (series.folder / name).write_bytes(b"half")

    assert len(series.read()[1]) == 10
    series.append(frame[10:], head)
    assert len(series.read()[1]) == 20
    assert sorted(path.name for path in series.folder.iterdir() if path.suffix != ".parquet") == [
        "head.json"
    ]


def test_an_altered_segment_is_refused(series):
    head = series.append(make_bars(10), Head())
    path = series.folder / f"{head.segments[0].sha256}.parquet"
    make_bars(10, seed=1).to_parquet(path)

    with pytest.raises(SourceError, match="was altered; delete its folder"):
        series.read()


def test_a_missing_segment_is_refused_with_what_to_do(series):
    head = series.append(make_bars(10), Head())
    (series.folder / f"{head.segments[0].sha256}.parquet").unlink()

    with pytest.raises(SourceError, match="are gone; delete the folder"):
        series.read()


def test_a_reader_follows_a_writer_that_merges_meanwhile(series, monkeypatch):
    frame = make_bars(10)
    old = series.append(frame[:5], Head())
    series.append(frame[5:], old)
    heads = iter([old])
    current = series.head()
    monkeypatch.setattr(Series, "head", lambda _: next(heads, current))

    assert len(series.read()[1]) == 10


def test_a_store_of_another_format_is_refused(series):
    series.commit(Head())
    path = series.folder / "head.json"
    path.write_text(json.dumps({"format": 99}))

    with pytest.raises(SourceError, match="has format 99, this version reads 1"):
        series.head()
