"""A retraining is claimed where something asks for it and its result could be judged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from mlops.data.calendar import load_calendar
from mlops.models.recipe import Recipe
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import request_digest
from mlops.service import Service
from mlops.store import ModelVersion, Status, Store, Why, open_store
from mlops.store.leases import exclusive
from mlops.store.triggers import (
    Answer,
    Cause,
    Claim,
    TriggerReason,
    TriggerState,
    list_triggers,
    raise_trigger,
    training_lease,
)
from mlops.store.versions import insert_version
from mlops.training import retraining
from mlops.training.retraining import Retraining, claim_retraining
from mlops.validation.integrity import TEST_BARS
from mlops.validation.report import GateReport, GateResult
from tests.mlops.registry.conftest import AT, SERVICE

HOUR = timedelta(hours=1)
CONFIG = TrainingConfig()
NEW_BARS = 500
"""As many are asked for to judge a refit by."""


@pytest.fixture
def store(tmp_path: Path, sqlite_template: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}")) as opened:
        yield opened


def search(service: Service = SERVICE, **changes: object) -> ModelVersion:
    """The version that answered a request on bars until `AT`."""
    notes = {
        "request": request_digest(ModelType.LINEAR, CONFIG),
        "asked_for": "linear",
        "config": CONFIG.model_dump(mode="json"),
        "recipe": Recipe("linear", ("har_1",)).to_dict(),
        "refit": False,
    }
    version = ModelVersion(
        model_id="linear_BTC",
        service=service.key,
        mlflow_version=2,
        run_id="r",
        model_type="linear",
        symbol=service.symbol,
        status=Status.CHALLENGER,
        digest="d",
        bundle_uri="file:///nowhere",
        watermark="a" * 64,
        trained_until=AT,
        recipe_digest="q",
        claims_only=False,
        code_version="0",
        created_at=AT,
        notes=notes,
    )
    return replace(version, **changes)  # type: ignore[arg-type]


def asked(store: Store, version: ModelVersion, now: datetime) -> Retraining | None:
    """What is claimed when drift asks for the service of a version to be trained anew."""
    reason = TriggerReason(
        service=version.service,
        cause=Cause.DRIFT,
        watermark=now.isoformat(),
        champion=version.model_id,
        text="volume has drifted",
    )
    with store.write() as connection:
        insert_version(connection, version, Why(AT))
        raise_trigger(connection, reason, at=now)
    return claimed(store, now, version.service)


def claimed(store: Store, now: datetime, service: str = SERVICE.key) -> Retraining | None:
    """What a run claims that trains the service now."""
    with exclusive(store, training_lease(service), "train", timeout_s=0.0) as lease:
        return claim_retraining(store, service, "run", lease=lease, now=now)


def test_triggers_wait_until_enough_bars_came_to_judge_a_refit(store: Store) -> None:
    """The last of 500 forecasts is judged when its own 24 hours have passed."""
    ready = AT + (NEW_BARS + SERVICE.horizon) * HOUR
    assert asked(store, search(), ready - HOUR) is None
    [row] = list_triggers(store)
    assert (row.state, row.answer, row.attempts) == (TriggerState.WAITING, Answer.TOO_EARLY, 0)
    assert row.not_before == ready
    assert claimed(store, ready - HOUR / 2) is None
    assert claimed(store, ready) is not None


def test_the_request_of_the_last_training_is_asked_for_again_as_of_now(store: Store) -> None:
    now = AT + 600 * HOUR
    retraining = asked(store, search(), now)
    assert retraining is not None
    assert (retraining.model_type, retraining.reason) == (ModelType.LINEAR, "drift")
    assert retraining.config == CONFIG.model_copy(update={"end": now})
    [row] = list_triggers(store)
    assert (row.state, row.claimed_by) == (TriggerState.CLAIMED, "run")


def test_the_wait_for_bars_counts_the_hours_of_the_market(store: Store) -> None:
    """A stock has seven bars a session, so that 501 of them take more than three months."""
    stock = Service.of(venue="xnys", symbol="AAPL/USD", timeframe="1h", target="return", horizon=1)
    assert asked(store, search(stock), AT + 600 * HOUR) is None
    [row] = list_triggers(store)
    assert row.not_before is not None
    assert timedelta(days=95) < row.not_before - AT < timedelta(days=110)


@pytest.mark.parametrize("calendar", ["24/7", "FX", "XNYS"])
def test_a_refusal_for_want_of_bars_waits_for_bars_of_the_market(
    store: Store, calendar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = GateResult(
        name="G0", title=TEST_BARS, value=312, threshold=500, passed=False, reason="too few"
    )
    report = GateReport(
        candidate="linear", target="volatility", mode="skill", alpha=0.05, results=(lacking,)
    )
    config = {"bars_file": "/far/bars.csv", "file_clock": "wall", "calendar": calendar}
    refused = search(status=Status.REFUSED, report=report.to_dict(), notes={"config": config})
    answers: list[datetime] = []
    monkeypatch.setattr(
        retraining, "answer_triggers", lambda *_, **how: answers.append(how["not_before"])
    )
    with store.write() as connection:
        claim = Claim("claim", SERVICE.key, AT, ())
        retraining.answer_claim(connection, refused, claim=claim, at=AT)
    opens = load_calendar(calendar).expected_opens(
        pd.Timestamp(AT), pd.Timestamp(AT) + pd.Timedelta(days=60), SERVICE.timeframe
    )
    assert answers == [opens[187] + HOUR]


def test_a_request_that_no_search_answered_is_searched_without_a_wait(store: Store) -> None:
    other = search()
    other = replace(other, notes={**other.notes, "request": "another"})
    assert asked(store, other, AT + HOUR) is not None


def test_a_service_that_no_request_trained_keeps_its_triggers(store: Store) -> None:
    assert asked(store, search(notes={}), AT + 600 * HOUR) is None
    assert [row.state for row in list_triggers(store)] == [TriggerState.WAITING]
