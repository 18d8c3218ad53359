"""The report of an A/B test says its verdict, and draws the sequence, regimes and gaps."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.reports import figures
from mlops.reports.ab_tests import ab_test_section, is_drawn, save_report
from mlops.reports.page import AbTestSection
from mlops.store import Verdict
from mlops.store.ab_tests import AbLook, AbTest
from mlops.store.schema import AbState

NOW = datetime(2025, 1, 1, tzinfo=UTC)
TEST = AbTest(
    id="ab-1",
    service="sample.btc-usd.1h.volatility.6",
    champion_id="persistence_1",
    challenger_id="linear_2",
    champion_is="b",
    name="<weekly>",
    split_bp=5000,
    alpha=0.05,
    since_bar=NOW,
    min_until_bar=NOW + timedelta(hours=24),
    until_bar=NOW + timedelta(hours=500),
    record=None,
    promote=True,
    rollout_id="rollout-1",
    requested_by="anna",
    requested_why="a new recipe",
    requested_at=NOW,
)


def look(pairs: int, **changes: Any) -> AbLook:
    counted = pairs >= 120
    row = AbLook(
        test_id="ab-1",
        bar=NOW + timedelta(hours=pairs),
        at=NOW,
        pairs=pairs,
        mean=0.02,
        variance=0.5,
        variance_source="record",
        standard_error=0.01,
        z=2.0,
        low=-0.01 if counted else None,
        high=0.05 if counted else None,
        relative_low=-0.02 if counted else None,
        relative_high=0.1 if counted else None,
        p=0.2,
        holes=3,
        missing={"champion": {}, "challenger": {"time_budget": 2, "not_loaded": 1}},
        dealt={"champion": 60, "challenger": 140},
        word=None,
        detail={
            "text": f"No verdict yet: {pairs} pairs.",
            "champion_loss": 0.5,
            "split": {"planned": 0.5, "as_planned": False},
            "regimes": [
                {"regime": "low", "pairs": 40, "champion_loss": 0.5, "challenger_loss": 0.4,
                 "gain": 0.2}
            ],
        },
        digest="d" * 64,
    )  # fmt: skip
    return replace(row, **changes)


def test_a_running_test_says_what_is_known_so_far() -> None:
    section = ab_test_section(TEST, [look(100), look(140)])
    assert section.verdict == "No verdict yet: 140 pairs."
    assert section.facts["state"] == "running"
    assert section.facts["gain of the challenger"] == "-2.0% to +10.0% of the champion's loss"
    assert section.facts["requests"].endswith("split not as planned")
    assert list(section.gaps) == [("challenger", "not loaded", 1), ("challenger", "time budget", 2)]
    assert [regime.gain for regime in section.regimes] == [0.2]
    (picture,) = section.pictures
    assert picture.uri.startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("verdict", "passed"), [(Verdict.BETTER, True), (Verdict.STOPPED, True), (Verdict.WORSE, False)]
)
def test_an_ended_test_says_its_verdict(verdict: Verdict, passed: bool) -> None:
    ended = replace(TEST, state=AbState.CONCLUDED, verdict=verdict, verdict_text="It is so.")
    section = ab_test_section(ended, [look(140)])
    assert (section.verdict, section.passed) == ("It is so.", passed)


def test_a_test_without_a_look_has_a_section_without_a_picture() -> None:
    section = ab_test_section(TEST, [])
    assert section.pictures == section.regimes == section.gaps == []
    assert "no outcome is due yet" in section.verdict


def test_a_section_can_be_put_on_another_page() -> None:
    section = ab_test_section(TEST, [look(140)])
    assert AbTestSection.from_json(section.to_json()) == section


def test_the_page_is_one_file_whose_texts_are_escaped(tmp_path: Path) -> None:
    path = save_report(TEST, [look(100), look(140)], tmp_path)
    page = path.read_text()
    assert path == tmp_path / "ab_tests" / "ab-1.html"
    assert "&lt;weekly&gt;" in page
    assert "<weekly>" not in page
    assert "By regime" in page
    assert "Bars without a forecast of one arm" in page


def test_a_report_is_drawn_again_once_the_test_has_ended(tmp_path: Path) -> None:
    ended = replace(TEST, state=AbState.CONCLUDED, verdict=Verdict.STOPPED, ended_at=NOW)
    assert not is_drawn(ended, tmp_path)
    path = save_report(TEST, [look(140)], tmp_path)
    os.utime(path, (NOW.timestamp() - 5, NOW.timestamp() - 5))
    assert not is_drawn(ended, tmp_path)
    save_report(ended, [look(140)], tmp_path)
    assert is_drawn(ended, tmp_path)


def test_the_band_is_drawn_while_the_bounds_of_the_ratio_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []

    def draw(*columns: Any, **_: Any) -> str:
        drawn.extend(columns)
        return ""

    monkeypatch.setattr(figures, "draw_confidence_sequence", draw)
    unknown = look(150, relative_low=None, relative_high=None)
    ab_test_section(TEST, [look(100), unknown])
    _, gain, low, high = drawn
    np.testing.assert_allclose(gain, [0.04, 0.04])
    np.testing.assert_allclose(low, [np.nan, -0.02])
    np.testing.assert_allclose(high, [np.nan, 0.1])
