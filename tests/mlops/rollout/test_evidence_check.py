"""No input that nobody computed is a trial, and clients alone move no route off its champion.

Every request of a small world is sent, and every situation of a champion is put into a store. Then
each rule is replaced by wrong versions of itself, and each of those must be found out.
"""

from __future__ import annotations

from itertools import chain

import pytest

from mlops.store import Store

from .evidence_check import SITUATIONS, broken_by_champions, broken_by_requests
from .evidence_mutants import evidence_mutants
from .mutants import Mutant, first_of_each_rule


def test_no_request_breaks_a_law_of_counting() -> None:
    assert set(broken_by_requests()) == set()


def test_no_situation_of_a_champion_breaks_a_law(service: Store) -> None:
    assert len(SITUATIONS) == 21
    assert set(broken_by_champions(service)) == set()


@pytest.mark.parametrize("mutant", list(first_of_each_rule(evidence_mutants())))
def test_a_wrong_rule_on_evidence_is_found_out(
    mutant: Mutant, light: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.install(monkeypatch)
    broken = chain(broken_by_requests(), broken_by_champions(light))
    assert next(broken, None) is not None
