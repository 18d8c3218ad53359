"""A person's request is a search; the same one on a schedule is a refit, judged on young bars."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.models.recipe import Recipe
from mlops.store import ModelVersion, Status, Store, Why, count_trials, open_store
from mlops.store.routes import begin_route
from mlops.store.schema import route
from mlops.store.versions import insert_version
from mlops.training.refit_policy import (
    LEAST_ALPHA,
    SEARCH_ALPHA,
    RefitPolicy,
    alpha_for_judgement,
    champion_of,
    refit_policy_for,
)
from tests.mlops.registry.conftest import AT, SERVICE

DAY = timedelta(days=1)
RECIPE = Recipe("linear", ("har_1",))
FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path, sqlite_template: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")) as opened:
        yield opened


def version(
    number: int,
    *,
    watermark: str = FIRST,
    until: datetime | None = AT,
    status: Status = Status.REFUSED,
    notes: Mapping[str, Any] | None = None,
) -> ModelVersion:
    return ModelVersion(
        model_id=f"linear_BTC_{number}",
        service=SERVICE.key,
        mlflow_version=number,
        run_id="r",
        model_type="linear",
        symbol=SERVICE.symbol,
        status=status,
        digest="d",
        bundle_uri="file:///nowhere",
        watermark=watermark,
        trained_until=until,
        recipe_digest=RECIPE.digest,
        claims_only=until is None,
        code_version="0",
        created_at=AT + number * DAY,
        notes=notes or {},
    )


def answer(recipe: Recipe = RECIPE, *, refit: bool = False, request: str = "q") -> dict[str, Any]:
    return {"request": request, "recipe": recipe.to_dict(), "refit": refit}


def add(store: Store, *versions: ModelVersion) -> None:
    with store.write() as connection:
        for version in versions:
            insert_version(connection, version, Why(AT))


def serve(store: Store, champion: ModelVersion) -> None:
    """Make a version the champion of a service that began at `AT` with another as baseline."""
    baseline = version(1, status=Status.DEPLOYED)
    add(store, baseline, *([] if champion.mlflow_version == 1 else [champion]))
    with store.write() as connection:
        begin_route(connection, SERVICE.key, baseline.model_id, Why(AT))
        connection.execute(route.update().values(champion=champion.model_id))


def asked(store: Store, *, reason: str = "schedule", watermark: str = SECOND) -> RefitPolicy:
    return refit_policy_for(store, SERVICE, request="q", reason=reason, watermark=watermark)


def test_a_request_that_was_never_answered_is_a_search(store: Store) -> None:
    assert asked(store) == RefitPolicy()
    add(store, version(2, notes=answer(request="another")))
    assert not asked(store).is_refit


def test_an_answered_request_is_a_refit_on_bars_after_its_search(store: Store) -> None:
    add(store, version(2, notes=answer()))
    assert asked(store) == RefitPolicy(RECIPE, AT, continues="linear_BTC_2")


def test_a_persons_request_is_always_a_search(store: Store) -> None:
    add(store, version(2, notes=answer()))
    assert asked(store, reason="manual") == RefitPolicy()


def test_a_search_on_the_same_bars_is_taken_up_again(store: Store) -> None:
    add(store, version(2, notes=answer()))
    assert asked(store, watermark=FIRST) == RefitPolicy()


def test_refits_do_not_move_the_bars_they_are_judged_from(store: Store) -> None:
    """Young bars are counted from the search: a refit has chosen nothing."""
    refit = version(3, watermark=SECOND, until=AT + 9 * DAY, notes=answer(refit=True))
    add(store, version(2, notes=answer()), refit)
    assert asked(store, watermark="c" * 64) == RefitPolicy(RECIPE, AT, continues="linear_BTC_2")


def test_a_later_search_replaces_recipe_and_bars(store: Store) -> None:
    other = Recipe("linear", ("har_24",))
    later = version(3, watermark=SECOND, until=AT + 9 * DAY, notes=answer(other))
    add(store, version(2, notes=answer()), later)
    assert asked(store, watermark="c" * 64) == RefitPolicy(other, AT + 9 * DAY, "linear_BTC_3")


@pytest.mark.parametrize(("champion_days", "since_days"), [(5, 5), (-5, 0)])
def test_no_judged_bar_was_seen_by_search_or_champion(
    store: Store, champion_days: int, since_days: int
) -> None:
    champion = version(9, until=AT + champion_days * DAY, status=Status.DEPLOYED)
    serve(store, champion)
    add(store, version(2, notes=answer()))
    assert champion_of(store, SERVICE) == champion
    assert asked(store).since == AT + since_days * DAY


@pytest.mark.parametrize(
    ("champion_days", "of_the_recipe", "continued"), [(5, True, 9), (-5, True, 2), (5, False, 2)]
)
def test_a_refit_continues_the_record_of_the_last_fit_of_its_recipe(
    store: Store, champion_days: int, of_the_recipe: bool, continued: int
) -> None:
    """The search's, or a champion's that is a refit of it; never one of another recipe."""
    champion = version(9, until=AT + champion_days * DAY, status=Status.DEPLOYED)
    serve(store, champion if of_the_recipe else replace(champion, recipe_digest="other"))
    add(store, version(2, notes=answer()))
    assert asked(store).continues == f"linear_BTC_{continued}"


def test_a_champion_of_unknown_training_leaves_the_searchs_cut(store: Store) -> None:
    serve(store, version(9, until=None, status=Status.DEPLOYED))
    add(store, version(2, notes=answer()))
    assert asked(store).since == AT


def test_a_baseline_that_serves_is_no_champion(store: Store) -> None:
    assert champion_of(store, SERVICE) is None
    serve(store, version(1))
    assert champion_of(store, SERVICE) is None


def level(store: Store, policy: RefitPolicy, *, days: float, testable: bool = True) -> float:
    return alpha_for_judgement(
        store,
        SERVICE,
        policy,
        watermark=f"after {days} days",
        testable=testable,
        yearly=0.05,
        now=AT + days * DAY,
    )


def test_a_search_has_its_usual_level_and_spends_nothing(store: Store) -> None:
    assert level(store, RefitPolicy(), days=1) == SEARCH_ALPHA
    assert count_trials(store, SERVICE.key) == 0


def test_refits_spend_what_accrued_once_for_each_watermark(store: Store) -> None:
    serve(store, version(1))
    refit = RefitPolicy(RECIPE, AT)
    assert level(store, refit, days=10, testable=False) == pytest.approx(0.05 * 10 / 365)
    assert level(store, refit, days=10) == pytest.approx(0.05 * 10 / 365)
    assert level(store, refit, days=10) == pytest.approx(0.05 * 10 / 365)
    assert level(store, refit, days=11) == pytest.approx(0.05 * 1 / 365)


def test_a_refit_with_nothing_to_spend_is_judged_at_a_level_nothing_reaches(
    store: Store,
) -> None:
    serve(store, version(1))
    other = replace(RECIPE, sequence_length=2)
    level(store, RefitPolicy(RECIPE, AT), days=10)
    assert level(store, RefitPolicy(other, AT), days=10) == LEAST_ALPHA
