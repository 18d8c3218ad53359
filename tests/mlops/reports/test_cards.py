"""A card tells what a version is and why it passed or not, on rows it had not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops.reports.cards import (
    UNITS,
    card_facts,
    card_section,
    fold_skills,
    save_card,
    save_story,
    verdict_sentence,
)
from mlops.reports.page import Section
from mlops.service import Target
from mlops.store import ModelVersion
from mlops.training.judgement import NAIVE, Judgement
from tests.project import BARS
from tests.studied import Studied


class Card:
    """A studied service, its verdict and its registered version."""

    def __init__(self, studied: Studied) -> None:
        self.studied = studied
        self.judgement: Judgement = studied.judged()
        self.version: ModelVersion = studied.registered()

    @property
    def section(self) -> Section:
        return card_section(
            self.studied.assignment, self.studied.study, self.judgement, self.version
        )


@pytest.fixture(scope="module")
def passed(volatility_once: Studied) -> Iterator[Card]:
    with volatility_once.entered() as studied:
        yield Card(studied)


@pytest.fixture(scope="module")
def refused(returns_once: Studied) -> Iterator[Card]:
    with returns_once.entered() as studied:
        yield Card(studied)


def test_the_verdict_is_a_sentence_with_every_reason(passed: Card, refused: Card) -> None:
    assert verdict_sentence(passed.judgement).startswith("Passed every hard gate")
    said = verdict_sentence(refused.judgement)
    assert said.startswith("Refused. ")
    assert all(reason in said for reason in refused.judgement.report.reasons)


@pytest.mark.parametrize("name", ["passed", "refused"])
def test_a_card_has_five_pictures_every_gate_and_metric_and_what_was_found_of_its_bars(
    name: str, request: pytest.FixtureRequest
) -> None:
    card: Card = request.getfixturevalue(name)
    section = card.section
    assert section.passed == (name == "passed")
    assert [picture.title for picture in section.pictures] == [
        "Forecast against outcome",
        "Skill by fold against each baseline",
        "Equity and drawdown after costs",
        "Calibration",
        "Trials",
    ]
    assert len(section.gates) == len(card.judgement.report.results)
    assert len(section.metrics) == len(card.judgement.evaluation.measures)
    assert section.gates[0]["title"] == "data quality"
    assert section.bars[0].text.startswith(f"{BARS:,} of {BARS:,} rows are bars")


def test_facts_say_on_what_data_and_by_which_code(passed: Card) -> None:
    facts = card_facts(passed.studied.assignment, passed.studied.study, passed.version)
    assert facts["bars"] == f"{BARS:,}, 2020-01-01 to 2020-04-09"
    assert facts["from"].startswith("BTC/USD from bars.parquet")
    assert facts["data watermark"] == passed.version.watermark
    assert facts["refits"] == "2 before the holdout, 2 through it"
    assert facts["model"] == "linear, chosen from 1 trials"
    assert facts["bundle digest"] == passed.version.digest


def test_skill_is_by_refit_against_each_naive_forecast(passed: Card) -> None:
    labels, skills = fold_skills(passed.judgement)
    assert labels == ["refit 3", "refit 4"]
    assert set(skills) == set(NAIVE[Target.VOLATILITY])
    rows = passed.judgement.holdout
    first = rows.fold == 2
    ours, naive = (rows.y - rows.forecast) ** 2, (rows.y - rows.baseline) ** 2
    expected = 1 - ours[first].mean() / naive[first].mean()
    assert skills["persistence"][0] == pytest.approx(expected)


def test_bars_without_a_known_source_are_said_to_be_so(passed: Card) -> None:
    dataset = passed.studied.assignment.dataset
    dataset.provenance, known = None, dataset.provenance
    try:
        facts = card_facts(passed.studied.assignment, passed.studied.study, passed.version)
    finally:
        dataset.provenance = known
    assert facts["from"] == "unknown"


def test_every_target_has_a_unit() -> None:
    assert set(UNITS) == set(Target)


def test_saved_cards_go_on_one_page(passed: Card, refused: Card, tmp_path: Path) -> None:
    cards = [
        save_card(card.section, tmp_path / "reports", card.version.model_id)
        for card in (passed, refused)
    ]
    story = save_story(cards, tmp_path / "story.html", title="Two services", subtitle="a day")
    html = story.read_text()
    for card in (passed, refused):
        assert card.version.model_id in html
    assert html.count("data:image/png;base64,") == 10


def test_a_fold_of_one_row_still_has_a_skill(passed: Card) -> None:
    rows = passed.judgement.holdout
    alone = replace(rows, fold=np.where(np.arange(len(rows)) == 0, 7, 3))
    _, skills = fold_skills(replace(passed.judgement, holdout=alone))
    assert all(np.isfinite(values).all() for values in skills.values())
