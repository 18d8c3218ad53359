"""A judged version is one more trial: worthless ones are refused, and the level says how many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.judged import RULES, START, Uploads, judge_uploads, plan_services
from mlops.errors import GateError
from mlops.search.trial_archive import TrialArchive
from mlops.service import Target
from mlops.store import Store, count_trials, open_store, record_trials
from mlops.training.outside_judgement import OutsideVerdict, judge_outside_forecasts
from mlops.training.search_level import spend_level

SKILLED = Uploads(Target.RETURN, seed=1, skill=0.04)
"""Forecasts that know 4 % of each outcome, beneath noise of six times that."""


SERVICE = "service"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


@pytest.fixture
def archive(tmp_path: Path) -> TrialArchive:
    return TrialArchive(tmp_path / "studies")


def judged(
    store: Store, archive: TrialArchive, number: int = 0, name: str = "mine", bars: int = 600
) -> OutsideVerdict:
    forecasts = SKILLED.draw(number + 1)[number]
    rows = forecasts.rows
    cut = {
        column: getattr(rows, column)[:bars]
        for column in (
            "made_at", "y", "forecast", "persistence", "baseline", "next_return", "fold"
        )
    }  # fmt: skip
    return judge_outside_forecasts(
        store,
        archive,
        SERVICE,
        name,
        replace(forecasts, rows=replace(rows, **cut)),
        recipe_digest="r",
        rules=RULES,
    )


def test_skill_passes_at_the_level_of_the_first_study(store: Store, archive: TrialArchive) -> None:
    verdict = judged(store, archive)
    assert verdict.report.passed, verdict.report
    assert verdict.report.alpha == spend_level(1, yearly=0.05)
    assert (verdict.place, verdict.compared) == (1, 1)


def test_a_second_version_is_compared_with_the_first_on_the_same_bars(
    store: Store, archive: TrialArchive
) -> None:
    judged(store, archive)
    second = judged(store, archive, 1, "other")
    assert (second.place, second.compared) == (2, 2)
    assert second.report.alpha == pytest.approx(2 * spend_level(2, yearly=0.05))
    assert "best of 2 worthless trials" in second.report["G2"].reason


def test_no_more_than_a_bounded_number_is_compared(
    store: Store, archive: TrialArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops.training.outside_judgement.MOST_COMPARED", 2)
    verdicts = [judged(store, archive, number, f"v{number}") for number in range(3)]
    assert [verdict.compared for verdict in verdicts] == [1, 2, 2]
    assert verdicts[2].report.alpha == pytest.approx(2 * spend_level(3, yearly=0.05))


def test_trials_of_other_bars_are_allowed_for_by_the_level(
    store: Store, archive: TrialArchive
) -> None:
    for study in ("search-a", "search-b"):
        record_trials(store, SERVICE, study=study, numbers=range(10), at=START)
    verdict = judged(store, archive)
    assert (verdict.place, verdict.compared) == (3, 1)
    assert verdict.report.alpha == spend_level(3, yearly=0.05)
    assert count_trials(store, SERVICE) == 21


def test_the_same_forecasts_again_spend_nothing(store: Store, archive: TrialArchive) -> None:
    first = judged(store, archive)
    second = judged(store, archive)
    assert (second.report, second.place) == (first.report, first.place)
    assert count_trials(store, SERVICE) == 1


def test_a_version_is_not_compared_with_itself_on_fewer_bars(
    store: Store, archive: TrialArchive
) -> None:
    judged(store, archive, bars=580)
    again = judged(store, archive)
    assert (again.place, again.compared) == (2, 1)


def test_too_few_forecasts_spend_nothing(store: Store, archive: TrialArchive) -> None:
    with pytest.raises(GateError, match="judge it again when 101 more bars are known"):
        judged(store, archive, bars=399)
    assert count_trials(store, SERVICE) == 0


def test_worthless_uploads_pass_nowhere_in_a_small_draw(tmp_path: Path) -> None:
    """Both targets; more of them, and more uploads, in the slow test and in `make bench`."""
    for place, uploads in enumerate(plan_services(2)):
        folder = tmp_path / str(place)
        folder.mkdir()
        verdicts = judge_uploads(uploads, 3, folder)
        assert not any(one.report.passed for one in verdicts)
        assert [one.place for one in verdicts] == [1, 2, 3]


@pytest.mark.slow
def test_worthless_uploads_seldom_register_a_challenger(tmp_path: Path) -> None:
    """Eight services of twenty uploads; each errs with at most about .03 in its life."""
    fell = 0
    for place, uploads in enumerate(plan_services(8)):
        folder = tmp_path / str(place)
        folder.mkdir()
        fell += any(one.report.passed for one in judge_uploads(uploads, 20, folder))
    assert fell <= 2
