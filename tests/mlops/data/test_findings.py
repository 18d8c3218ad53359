"""What was found of bars is told in sentences, kept as JSON, and refuses bars beyond a share."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from mlops.data.bars import COLUMNS, Bars
from mlops.data.calendar import load_calendar
from mlops.data.findings import (
    MAX_DOUBTFUL_SHARE,
    MIN_COMPLETENESS,
    Findings,
    Sighting,
    accept_bars,
    require_sound,
)
from mlops.data.load import load_bars
from mlops.data.sources.files import FileSource
from mlops.errors import BarsError
from mlops.service import Timeframe
from tests.mlops.data.conftest import START, make_bars

PRICES = list(COLUMNS[:4])
Loaded = Callable[..., Bars]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Bars of a file that holds this frame."""

    def load(
        frame: pd.DataFrame, *, stamps: Literal["open", "close"] = "open", **changes: Any
    ) -> Bars:
        frame.to_parquet(tmp_path / "mine.parquet")
        source = FileSource(path=tmp_path / "mine.parquet", stamps=stamps)
        return load_bars(
            source=source, symbol="X/USD", timeframe="1h", cache_root=tmp_path, **changes
        )

    return load


def at(hour: int) -> pd.Timestamp:
    return pd.Timestamp(START) + timedelta(hours=hour)


def with_bad_prints(frame: pd.DataFrame, hours: range) -> pd.DataFrame:
    spoiled = frame.copy()
    spoiled["high"] *= np.where(frame.index.isin([at(hour) for hour in hours]), 1.5, 1.0)
    return spoiled


def test_clean_bars_are_one_line(loaded: Loaded) -> None:
    assert Findings.of(loaded(make_bars(1000))).lines == (
        "1,000 of 1,000 rows are bars, opened 2024-01-01 00:00 to 2024-02-11 15:00 UTC, "
        "calendar 24/7; no hole, no split, no bad print",
    )


def test_each_kind_is_a_sentence_with_its_count_and_first_dates(loaded: Loaded) -> None:
    frame = with_bad_prints(make_bars(1000), range(100, 500, 100))
    frame[PRICES] /= np.where(np.arange(len(frame)) < 700, 1, 2)[:, None]
    frame.iloc[800, :4] = frame["close"].iloc[800]
    rows = pd.concat([frame.drop([at(900), at(901), at(950)]), frame.iloc[[10]]])
    text = "\n".join(Findings.of(loaded(rows)).lines)
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
    lines = Findings.of(replace(bars, quality=quality)).lines
    assert "17 rows lie outside the period asked for" in lines[0]
    assert lines[1:] == (
        "2 of 520 rows were other readings of a bar and were merged (first 2024-01-01 07:00)",
        "1 of 520 rows were counted as misread twice",
        "bars were asked for from 2023 but begin in 2024",
    )


def test_stamps_of_closes_are_told_to_be_moved(loaded: Loaded) -> None:
    frame = make_bars(500)
    found = Findings.of(loaded(frame, stamps="close"))
    assert found.begins == START - timedelta(hours=1)
    assert "500 bars came with the stamp of their close and got that of their open" in found.lines


def test_findings_are_read_back_from_json(loaded: Loaded) -> None:
    frame = with_bad_prints(make_bars(500), range(100, 103)).drop([at(300)])
    found = Findings.of(loaded(pd.concat([frame, frame.iloc[[1]]]), stamps="close"))
    assert Findings.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_training_logs_each_finding_once_and_warns_of_what_is_odd(
    loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    bars = loaded(with_bad_prints(make_bars(500), range(100, 102)).drop([at(300)]))
    with caplog.at_level(logging.INFO, "mlops"):
        assert accept_bars(bars) is bars
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert all(record.name.startswith("mlops.") for record in caplog.records)
    assert "X/USD on file: 2 of 499 bars reached far" in caplog.messages[1]


def test_a_reading_alone_logs_nothing(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    """The feed and each look of the monitor read bars too."""
    with caplog.at_level(logging.DEBUG, "mlops"):
        loaded(with_bad_prints(make_bars(500), range(100, 102)))
    assert caplog.messages == []


def test_more_doubtful_bars_than_the_share_are_refused_with_dates_and_remedy(
    loaded: Loaded,
) -> None:
    most = int(MAX_DOUBTFUL_SHARE * 1000)
    accept_bars(loaded(with_bad_prints(make_bars(1000), range(100, 100 + 2 * most, 2))))
    spoiled = loaded(with_bad_prints(make_bars(1000), range(100, 102 + 2 * most, 2)))
    with pytest.raises(BarsError) as caught:
        accept_bars(spoiled)
    said = str(caught.value)
    assert said.startswith("1h bars of X/USD from mine.parquet: 0 of 1,000 rows were dropped")
    assert "11 of 1,000 bars are suspected of an error (1.10% together)" in said
    assert "first 2024-01-05 04:00, 2024-01-05 06:00" in said
    assert "start=" in said


def test_the_remedy_start_leaves_the_spoiled_bars_out(loaded: Loaded) -> None:
    spoiled = with_bad_prints(make_bars(1000), range(100, 140, 2))
    found = Findings.of(accept_bars(loaded(spoiled, start=datetime(2024, 1, 8, tzinfo=UTC))))
    assert (found.rows_in, found.rows_out, found.doubtful_share) == (1000, 832, 0.0)


@pytest.mark.parametrize(("invalid", "refused"), [(10, False), (11, True)])
def test_invalid_candles_are_refused_beyond_the_share(
    loaded: Loaded, invalid: int, refused: bool
) -> None:
    """Rows before their close and equal copies, of which a feed reads many, do not dilute it."""
    found = replace(
        Findings.of(loaded(make_bars(1000 - invalid))),
        rows_in=5000,
        dropped={
            "invalid": Sighting(invalid),
            "not_closed": Sighting(3500),
            "duplicate": Sighting(500),
        },
    )
    assert found.doubtful_share == invalid / 1000
    said = r"11 of 1,000 rows .*each left a hole.*bars_file="
    with pytest.raises(BarsError, match=said) if refused else nullcontext():
        require_sound(found, "bars")


def test_bars_that_are_mostly_holes_are_refused(loaded: Loaded) -> None:
    """Whatever calendar was asked for; without one the file is asked for it before."""
    frame, drawn = make_bars(1000), np.random.default_rng(3).uniform(size=1000)
    half = drawn < MIN_COMPLETENESS + 0.05
    accepted = accept_bars(loaded(frame[half], calendar="24/7"))
    assert Findings.of(accepted).completeness > MIN_COMPLETENESS
    scarce = loaded(frame[drawn < MIN_COMPLETENESS - 0.05], calendar="24/7")
    said = r"hole\(s\) of 5.. bars .*first 2024-.*timeframe=.*calendar= such as 'XNYS'.*start="
    with pytest.raises(BarsError, match=said):
        accept_bars(scarce)


def test_a_recognised_calendar_is_told(loaded: Loaded) -> None:
    calendar = load_calendar("XNYS")
    end = pd.Timestamp(START) + timedelta(days=90)
    opens = calendar.expected_opens(pd.Timestamp(START), end, Timeframe("1h"))
    frame = make_bars(len(opens)).set_axis(opens.rename("open_time"), axis=0)
    recognised = Findings.of(accept_bars(loaded(frame)))
    named = Findings.of(accept_bars(loaded(frame, calendar=calendar)))
    assert (recognised.calendar, recognised.missing) == (named.calendar, named.missing)
    assert (named.calendar, named.missing) == ("XNYS", 0)
    assert any("calendar XNYS, recognised" in line for line in recognised.lines)
    assert len(named.lines) == 1
