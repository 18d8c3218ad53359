"""A verdict replaces claims, and one that rests on less never replaces one that rests on more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlops.errors import RegistryError
from mlops.store import ModelVersion, Status, Store, Why, get_version, list_audit_entries
from mlops.store.judgements import (
    EvidenceKind,
    JudgementBasis,
    is_from_elsewhere,
    needs_person,
    write_judgement,
)

from .conftest import NOW

Add = Callable[..., ModelVersion]
WORD = JudgementBasis(
    kind=EvidenceKind.WORD,
    trained_until=NOW - timedelta(days=60),
    since=NOW - timedelta(days=59),
    until=NOW,
    bars=1400,
    recorded=0,
    live=True,
    own_bars=True,
    origin="BTC/USD on an exchange",
    bars_digest="b" * 64,
    study="judged-a-1",
    place=3,
    compared=2,
    claims={"mse": 0.1},
    judged_at=NOW,
)
RECORD = replace(WORD, kind=EvidenceKind.RECORD, trained_until=None, recorded=1400)
OTHERS = replace(WORD, own_bars=False)


@pytest.fixture
def claimed(add: Add) -> ModelVersion:
    return add(status=Status.REFUSED, claims_only=True, metrics={"mse": 0.1})


def judge(
    store: Store, row: ModelVersion, basis: JudgementBasis = WORD, *, passed: bool = True
) -> ModelVersion:
    return write_judgement(
        store,
        row.model_id,
        basis,
        passed=passed,
        report={"passed": passed},
        metrics={"mse": 0.3},
        why=Why(NOW, actor="ann", reason="a try"),
    )


@pytest.mark.parametrize("basis", [WORD, RECORD, OTHERS])
def test_a_basis_comes_back_as_it_went_in(
    store: Store, claimed: ModelVersion, basis: JudgementBasis
) -> None:
    row = judge(store, claimed, basis)
    assert JudgementBasis.of(row) == basis
    assert get_version(store, row.model_id) == row


@pytest.mark.parametrize(("passed", "status"), [(True, Status.CHALLENGER), (False, Status.REFUSED)])
def test_a_verdict_on_its_own_bars_decides_the_status_and_replaces_the_claims(
    store: Store, claimed: ModelVersion, passed: bool, status: Status
) -> None:
    row = judge(store, claimed, passed=passed)
    assert (row.status, row.claims_only, row.metrics) == (status, False, {"mse": 0.3})
    assert row.report == {"passed": passed}
    assert is_from_elsewhere(row)


def test_other_bars_leave_claims_and_status(store: Store, claimed: ModelVersion) -> None:
    row = judge(store, claimed, OTHERS)
    assert (row.status, row.claims_only, row.metrics) == (Status.REFUSED, True, {"mse": 0.1})
    assert judge(store, row).status is Status.CHALLENGER


@pytest.mark.parametrize("status", [Status.DEPLOYED, Status.RETIRED, Status.FAILED])
def test_what_was_live_keeps_its_status_and_gets_the_verdict(
    store: Store, add: Add, status: Status
) -> None:
    row = judge(store, add(status=status, claims_only=True), passed=False)
    assert (row.status, row.report) == (status, {"passed": False})


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (WORD, OTHERS, "other bars do not replace"),
        (RECORD, OTHERS, "other bars do not replace"),
        (RECORD, WORD, "a word does not replace"),
    ],
)
def test_what_rests_on_less_replaces_nothing(
    store: Store,
    claimed: ModelVersion,
    first: JudgementBasis,
    second: JudgementBasis,
    message: str,
) -> None:
    row = judge(store, claimed, first, passed=False)
    with pytest.raises(RegistryError, match=message):
        judge(store, row, second)
    assert get_version(store, row.model_id) == row


def test_a_record_replaces_the_word_both_ways(store: Store, claimed: ModelVersion) -> None:
    row = judge(store, claimed, WORD)
    row = judge(store, row, RECORD, passed=False)
    assert row.status is Status.REFUSED
    assert judge(store, row, RECORD).status is Status.CHALLENGER


def test_a_version_of_our_own_is_not_judged(store: Store, add: Add) -> None:
    row = add(status=Status.CHALLENGER)
    assert not is_from_elsewhere(row)
    with pytest.raises(RegistryError, match="was trained and judged here"):
        judge(store, row)


@pytest.mark.parametrize(
    ("basis", "person"),
    [(WORD, True), (RECORD, False), (replace(RECORD, live=False), True)],
    ids=["word", "record", "record of a replay"],
)
def test_only_a_record_of_today_lets_a_version_go_live_by_itself(
    store: Store, claimed: ModelVersion, basis: JudgementBasis, person: bool
) -> None:
    assert needs_person(claimed)
    assert needs_person(judge(store, claimed, basis)) is person


def test_the_audit_log_says_who_judged_on_what(store: Store, claimed: ModelVersion) -> None:
    judge(store, claimed)
    entries: list[Any] = list(list_audit_entries(store, subject=claimed.model_id))
    judged = next(entry for entry in entries if entry.action == "judge")
    assert (judged.actor, judged.reason) == ("ann", "a try")
    assert "on the caller's word that no bar after" in judged.after["basis"]
    assert judged.after["study"] == WORD.study
