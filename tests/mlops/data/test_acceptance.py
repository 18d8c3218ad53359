"""A training logs what was found of its bars, and refuses bars of which too much is doubtful."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mlops.data.acceptance import accept_bars, require_sound
from mlops.data.findings import MAX_DOUBTFUL_SHARE, MIN_COMPLETENESS, Findings, Sighting
from mlops.errors import BarsError
from tests.mlops.data.conftest import make_bars
from tests.mlops.data.odd_bars import Loaded, at, loaded, with_bad_prints

__all__ = ["loaded"]


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


def test_the_remedy_start_leaves_rows_of_a_file_out_that_were_dropped_before(
    loaded: Loaded,
) -> None:
    """Of 120 bars 2 were read twice: above the share, unless they lie before the start."""
    frame = make_bars(120)
    snapshots = frame.iloc[[10, 20]].copy()
    snapshots["close"] = snapshots["open"]
    snapshots["volume"] /= 2
    frame = pd.concat([frame, snapshots]).sort_index(kind="stable")
    with pytest.raises(BarsError, match=r"2 of 122 rows were dropped or merged.*start="):
        accept_bars(loaded(frame))
    found = Findings.of(accept_bars(loaded(frame, start=at(21))))
    assert (found.rows_in, found.rows_out, found.unusable) == (122, 99, 0)
