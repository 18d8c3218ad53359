"""What was found of bars is told in sentences with counts, dates and the calendar."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd

from mlops.data.bars import COLUMNS, Bars
from mlops.data.calendar import load_calendar
from mlops.data.finding_texts import describe_findings
from mlops.data.findings import Findings
from mlops.service import Timeframe
from tests.mlops.data.conftest import START, make_bars
from tests.mlops.data.odd_bars import Loaded, at, loaded, with_bad_prints

__all__ = ["loaded"]

PRICES = list(COLUMNS[:4])


def lines(bars: Bars) -> tuple[str, ...]:
    return tuple(one.text for one in describe_findings(Findings.of(bars)))


def test_clean_bars_are_one_line(loaded: Loaded) -> None:
    assert lines(loaded(make_bars(1000))) == (
        "1,000 of 1,000 rows are bars, opened 2024-01-01 00:00 to 2024-02-11 15:00 UTC, "
        "calendar 24/7; no hole, no split, no bad print",
    )


def test_each_kind_is_a_sentence_with_its_count_and_first_dates(loaded: Loaded) -> None:
    frame = with_bad_prints(make_bars(1000), range(100, 500, 100))
    frame[PRICES] /= np.where(np.arange(len(frame)) < 700, 1, 2)[:, None]
    frame.iloc[800, :4] = frame["close"].iloc[800]
    rows = pd.concat([frame.drop([at(900), at(901), at(950)]), frame.iloc[[10]]])
    text = "\n".join(lines(loaded(rows)))
    assert "997 of 998 rows are bars" in text
    assert "1 of 998 rows repeated the stamp of another row" in text
    assert "1 of 997 bars began a lasting step of the price" in text
    assert "as a split does (at 2024-01-30 04:00)" in text
    assert "4 of 997 bars reached far beyond both neighbours" in text
    assert "(first 2024-01-05 04:00, 2024-01-09 08:00, 2024-01-13 12:00)" in text
    assert "2 hole(s) of 3 bars in all (at 2024-02-07 12:00, 2024-02-09 14:00); 99.70%" in text
    assert "1 of 997 bars are flat" in text
    assert "not in the order of time" in text


def test_what_a_source_and_a_rule_not_known_here_say_is_told_too(loaded: Loaded) -> None:
    bars = loaded(make_bars(500))
    quality = replace(
        bars.quality,
        rows_in=520,
        dropped={"re_read": 2, "misread_twice": 1},
        first_dropped={"re_read": at(7)},
        warnings=("bars were asked for from 2023 but begin in 2024",),
    )
    first, *others = lines(replace(bars, quality=quality))
    assert "17 rows lie outside the period asked for" in first
    assert others == [
        "2 of 520 rows were other readings of a bar and were merged (first 2024-01-01 07:00)",
        "1 of 520 rows were counted as misread twice",
        "bars were asked for from 2023 but begin in 2024",
    ]


def test_stamps_of_closes_are_told_to_be_moved(loaded: Loaded) -> None:
    frame = make_bars(500).rename_axis("time")
    bars = loaded(frame, stamps="close")
    assert bars.frame.index[0] == START - timedelta(hours=1)
    assert "500 bars came with the stamp of their close and got that of their open" in lines(bars)


def test_a_recognised_calendar_is_told(loaded: Loaded) -> None:
    calendar = load_calendar("XNYS")
    end = pd.Timestamp(START) + timedelta(days=90)
    opens = calendar.expected_opens(pd.Timestamp(START), end, Timeframe("1h"))
    frame = make_bars(len(opens)).set_axis(opens.rename("open_time"), axis=0)
    recognised, named = loaded(frame), loaded(frame, calendar=calendar)
    assert any("calendar XNYS, recognised" in line for line in lines(recognised))
    (line,) = lines(named)
    assert line.endswith("calendar XNYS; no hole, no split, no bad print")
