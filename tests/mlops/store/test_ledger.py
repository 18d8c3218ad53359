"""Trials count once, and refits never spend more than a year's budget in a year."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.errors import StoreError
from mlops.store import Store, alpha_for_refit, count_trials, record_trials, spend_alpha
from mlops.store.ledger import JudgedTrial, count_studies, record_judged_trial

from .conftest import NOW, SERVICE

DAY = timedelta(days=1)


def spend(store: Store, after: timedelta, mark: str, alpha: float | None = None) -> float:
    return spend_alpha(
        store, SERVICE, watermark=mark, recipe_digest="r", now=NOW + after, alpha=alpha
    )


def test_a_trial_counts_once_however_often_it_is_reported(store: Store) -> None:
    assert record_trials(store, SERVICE, study="a", numbers=[0, 1], at=NOW) == 2
    assert record_trials(store, SERVICE, study="a", numbers=[1, 2], at=NOW) == 1
    assert record_trials(store, SERVICE, study="b", numbers=[1], at=NOW) == 1
    assert count_trials(store, SERVICE) == 4
    assert count_trials(store, "another") == 0


def test_a_daily_refit_is_judged_at_a_365th_of_the_budget(began: Store) -> None:
    assert spend(began, DAY, "1") == pytest.approx(0.05 / 365)
    assert spend(began, 2 * DAY, "2") == pytest.approx(0.05 / 365)


@pytest.mark.parametrize(("days", "alpha"), [(0, 0.0), (73, 0.01), (365, 0.05), (3650, 0.05)])
def test_alpha_accrues_from_the_day_the_service_began(
    began: Store, days: int, alpha: float
) -> None:
    assert alpha_for_refit(began, SERVICE, NOW + days * DAY) == pytest.approx(alpha)


def test_market_time_before_the_service_began_earns_nothing(began: Store) -> None:
    assert alpha_for_refit(began, SERVICE, NOW - DAY) == 0.0


def test_a_retry_after_a_crash_gets_the_level_already_spent(began: Store) -> None:
    first = spend(began, 73 * DAY, "1")
    assert spend(began, 74 * DAY, "1") == first
    assert alpha_for_refit(began, SERVICE, NOW + 74 * DAY) == pytest.approx(0.05 / 365)


def test_another_recipe_on_the_same_data_spends_its_own(began: Store) -> None:
    spend(began, 73 * DAY, "1")
    other = spend_alpha(began, SERVICE, watermark="1", recipe_digest="s", now=NOW + 73 * DAY)
    assert other == 0.0


def test_more_than_has_accrued_is_refused(began: Store) -> None:
    with pytest.raises(StoreError, match=r"asked for alpha 0\.02 but 0\.01 of the yearly 0\.05"):
        spend(began, 73 * DAY, "1", alpha=0.02)


def test_refits_that_ask_at_once_share_what_has_accrued(began: Store) -> None:
    with ThreadPoolExecutor(4) as at_once:
        granted = list(at_once.map(lambda mark: spend(began, 73 * DAY, mark), "abcd"))
    assert sorted(granted) == pytest.approx([0, 0, 0, 0.01])


def test_a_study_reported_twice_at_once_counts_once(store: Store) -> None:
    def report(_: int) -> int:
        return record_trials(store, SERVICE, study="a", numbers=range(20), at=NOW)

    with ThreadPoolExecutor(4) as at_once:
        assert sum(at_once.map(report, range(4))) == count_trials(store, SERVICE) == 20


def test_a_service_that_has_not_begun_has_no_budget(store: Store) -> None:
    with pytest.raises(StoreError, match="has not begun"):
        alpha_for_refit(store, SERVICE, NOW)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.floats(0.01, 500), min_size=1, max_size=12))
def test_no_365_days_spend_more_than_the_budget(began: Store, gaps: list[float]) -> None:
    """Each example gets a recipe and a service epoch of its own in the shared store."""
    from sqlalchemy import text

    service = str(uuid4())
    with began.write() as connection:
        connection.execute(
            text(
                "INSERT INTO route (service, generation, champion, baseline, weight_bp, mirror_bp,"
                " salt, created_at, updated_at) SELECT :new, generation, champion, baseline, 0, 0,"
                " '', created_at, updated_at FROM route WHERE service = :old"
            ),
            {"new": service, "old": SERVICE},
        )
    now, spends = NOW, []
    for number, gap in enumerate(gaps):
        now += timedelta(days=gap)
        alpha = spend_alpha(began, service, watermark=str(number), recipe_digest="r", now=now)
        spends.append((now, alpha))
    for end, _ in spends:
        in_year = [alpha for at, alpha in spends if end - timedelta(days=365) < at <= end]
        assert sum(in_year) <= 0.05 + 1e-9


def judged(store: Store, study: str) -> JudgedTrial:
    return record_judged_trial(
        store,
        SERVICE,
        study=study,
        watermark="w",
        recipe_digest="r",
        at=NOW,
        level=lambda place: 0.01 / place,
    )


def test_a_judged_version_is_a_study_of_one_trial_in_its_place(began: Store) -> None:
    record_trials(began, SERVICE, study="search", numbers=range(20), at=NOW)
    assert judged(began, "a") == JudgedTrial(place=2, alpha=0.005)
    assert judged(began, "b") == JudgedTrial(place=3, alpha=0.01 / 3)
    assert (count_trials(began, SERVICE), count_studies(began, SERVICE)) == (22, 3)
    assert count_studies(began, "another") == 0


def test_a_study_that_is_judged_again_keeps_its_place_and_level(began: Store) -> None:
    first = judged(began, "a")
    judged(began, "b")
    # A search that was begun before and goes on is one study.
    record_trials(began, SERVICE, study="search", numbers=[1], at=NOW)
    record_trials(began, SERVICE, study="search", numbers=[2], at=NOW)
    assert judged(began, "a") == first
    assert judged(began, "c").place == 4


def test_judgements_at_once_have_different_places(began: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        trials = list(pool.map(lambda number: judged(began, f"v{number}"), range(8)))
    assert sorted(trial.place for trial in trials) == list(range(1, 9))
