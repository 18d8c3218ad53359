"""What all studies of a service spend together stays within the searches' share of the budget."""

from __future__ import annotations

import pytest

from mlops.training.search_level import judging_level, spend_level


def test_all_studies_together_spend_less_than_six_tenths_of_the_budget() -> None:
    spent = sum(spend_level(place, yearly=0.05) for place in range(1, 200_001))
    # What is left of the sum is at most the integral of its terms, 0.35 A / (1 + ln j).
    assert spent < 0.6 * 0.05
    assert spent == pytest.approx(0.59 * 0.05, abs=0.05 * 0.06)


@pytest.mark.parametrize(("place", "alpha"), [(1, 0.0175), (2, 0.0061), (3, 0.004)])
def test_studies_of_equal_size_on_the_same_bars_have_these_levels(place: int, alpha: float) -> None:
    spent = spend_level(place, yearly=0.05)
    level = judging_level(spent, compared=7 * place, own=7, yearly=0.05)
    assert level == pytest.approx(alpha, abs=5e-5)


def test_no_study_is_judged_above_the_first_ones_level() -> None:
    assert judging_level(0.01, compared=500, own=1, yearly=0.05) == pytest.approx(0.0175)
