"""A version is explained, and followed row by row to what asked for it and what it became."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from mlops.errors import StoreError, VersionNotFound
from mlops.registry import Candidate, Registry, code_version, explain, register
from mlops.registry.version_history import trace
from mlops.rollout.plan import plan_for
from mlops.rollout.request import request_rollout
from mlops.store import ModelVersion, Phase, Status, Store, Why, get_route, get_version
from mlops.store.leases import exclusive
from mlops.store.monitor_runs import CheckRow, write_check
from mlops.store.rollouts import Arrow, move_rollout
from mlops.store.schema import check, trigger
from mlops.store.triggers import (
    Answer,
    Cause,
    TriggerReason,
    answer_triggers,
    claim_triggers,
    raise_trigger,
    training_lease,
)
from mlops.validation.report import GateReport, GateResult
from tests.findings import findings_with
from tests.mlops.registry.conftest import AT, Populated
from tests.stores import NOW, SERVICE, add, began, empty_url, store, url

__all__ = ["add", "began", "empty_url", "store", "url"]

REPORT = GateReport(
    candidate="linear",
    target="volatility",
    mode="skill",
    alpha=0.05,
    results=(
        GateResult(
            name="G1", title="r2", value=0.7, threshold=0.5, passed=True, reason="above the floor"
        ),
        GateResult(
            name="G2", title="spa", value=0.4, threshold=0.05, passed=False, reason="could be luck"
        ),
    ),
)


@pytest.mark.usefixtures("unverified")
def test_a_refused_version_says_which_gate_refused_it(
    registry: Registry, candidate: Candidate
) -> None:
    judged = replace(candidate, status=Status.REFUSED, report=REPORT.to_dict())
    row = register(registry, judged, Why(AT, actor="ann", reason="nightly"))
    found = explain(registry, row.model_id)
    assert found.report == REPORT
    assert found.reasons == ("G2 spa: could be luck",)
    assert "was refused by the gates" in found.verdict
    assert "ann: register nightly" in str(found)


def test_an_explanation_names_data_and_code(populated: Populated) -> None:
    found = explain(populated.registry, populated.challenger)
    version = get_version(populated.registry.store, populated.challenger)
    assert f"bars {version.watermark[:12]} up to 2" in str(found)
    assert version.code_version == code_version()
    assert code_version() in str(found)


@pytest.mark.usefixtures("unverified")
def test_an_explanation_tells_what_was_found_of_the_bars(
    registry: Registry, candidate: Candidate
) -> None:
    findings = findings_with(re_read=2)
    noted = replace(candidate, notes={"bars": findings.to_dict()})
    row = register(registry, noted, Why(AT, actor="ann", reason="nightly"))
    found = explain(registry, row.model_id)
    assert found.findings == findings
    assert "  bars    10,000 of 10,002 rows are bars" in str(found)
    assert "  bars    2 of 10,002 rows were other readings of a bar" in str(found)


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize(
    ("notes", "claims_only"),
    [({}, False), ({"bars": None}, False), ({"bars": 10_000}, True), ({"bars": {"n": 1}}, True)],
)
def test_a_version_without_findings_says_nothing_of_them(
    registry: Registry, candidate: Candidate, notes: Mapping[str, object], claims_only: bool
) -> None:
    """A note that a caller named `bars` is no finding of a training."""
    noted = replace(candidate, notes=notes, claims_only=claims_only)
    row = register(registry, noted, Why(AT, actor="ann", reason="nightly"))
    assert explain(registry, row.model_id).findings is None
    assert "  bars    " not in str(explain(registry, row.model_id))


def test_the_baseline_needs_no_gate(populated: Populated) -> None:
    assert "needs no gate" in explain(populated.registry, populated.baseline).verdict


def test_an_unknown_version_is_said_to_be_unknown(populated: Populated) -> None:
    with pytest.raises(VersionNotFound, match="no version 'nobody'"):
        explain(populated.registry, "nobody")


RUN = "a-flow-run"
LOOK = CheckRow(
    id="check-1",
    service=SERVICE,
    model_id="linear_BTC_1",
    bar=NOW,
    at=NOW,
    recommendation="RETRAIN_SOON",
    official=True,
    report={},
    performance=None,
    state={},
)


@pytest.fixture
def passed(began: Store, add: Callable[..., ModelVersion]) -> Store:
    """A look asked for a training, and its version passed."""
    reason = TriggerReason(
        service=SERVICE, cause=Cause.DRIFT, watermark="w", champion="linear_BTC_1",
        text="the target drifted", verdict=LOOK.id,
    )  # fmt: skip
    with began.write() as connection:
        write_check(connection, LOOK)
        asked = raise_trigger(connection, reason, at=NOW)
    with exclusive(began, training_lease(SERVICE), "train", timeout_s=0.0) as lease:
        claim = claim_triggers(began, SERVICE, RUN, lease=lease, at=NOW)
    assert claim is not None
    add("linear_BTC_2", 2, status=Status.CHALLENGER, report={"passed": True},
        notes={"triggers": [asked]})  # fmt: skip
    with began.write() as connection:
        answer_triggers(connection, claim, Answer.CHALLENGER, at=NOW, model_id="linear_BTC_2")
    return began


def promote(store: Store, *, routed: bool = True) -> None:
    """Take the version live, or say so without the route that goes with it."""
    why = Why(NOW, "train", "auto_deploy")
    rollout = request_rollout(store, "linear_BTC_2", plan_for("blue_green"), why, force=False)
    before = get_route(store, SERVICE)
    assert before is not None
    after = replace(before, champion="linear_BTC_2", previous_champion=before.champion)
    arrow = Arrow(
        to=Phase.PROMOTED,
        step=0,
        patience=timedelta(hours=1),
        reason="good",
        route=after if routed else None,
    )
    with store.write() as connection:
        move_rollout(connection, rollout, before, arrow, term=1, at=NOW)


@pytest.fixture
def live(passed: Store) -> Store:
    promote(passed)
    return passed


def test_a_champion_is_followed_back_to_the_look_that_asked_for_it(live: Store) -> None:
    path = trace(live, "linear_BTC_2")
    assert [one.id for one in path.looks] == ["check-1"]
    assert [one.verdict for one in path.triggers] == ["check-1"]
    assert path.flow_run == RUN
    assert path.rollout is not None
    assert path.live_period is not None
    assert (path.rollout.to_version, path.live_period.champion) == ("linear_BTC_2", "linear_BTC_2")
    assert path.live_period.generation == get_route(live, SERVICE).generation
    assert str(path).splitlines()[2] == "flow run a-flow-run"


def test_a_version_that_nobody_asked_for_has_only_itself(live: Store) -> None:
    path = trace(live, "persistence_BTC_1")
    assert (path.looks, path.triggers, path.flow_run, path.rollout, path.live_period) == (
        (), (), None, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cut", "named"),
    [
        (check.delete(), "rests on look check-1, which is gone"),
        (trigger.delete(), "which does not exist"),
        (trigger.update().values(model_id="another"), "was answered by another"),
        (trigger.update().values(claimed_by=None), "without having been claimed"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(live: Store, cut: sa.Executable, named: str) -> None:
    with live.write() as connection:
        connection.execute(cut)
    with pytest.raises(StoreError, match=named):
        trace(live, "linear_BTC_2")


def test_a_promotion_without_its_route_is_named(passed: Store) -> None:
    promote(passed, routed=False)
    with pytest.raises(StoreError, match="route knows nothing"):
        trace(passed, "linear_BTC_2")
