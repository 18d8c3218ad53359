"""The A/B test of the past is rehearsed to its verdict, and its rollout makes the winner live."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from deployments.demo.ab_test_act import LONGEST, START
from mlops.store import (
    Phase,
    Store,
    Verdict,
    get_rollout,
    get_route,
    list_events,
    list_forecasts,
    open_store,
)
from mlops.store.ab_tests import AbTest, list_gaps, list_looks, list_tests

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "ab-tests.md"


class Rehearsed(NamedTuple):
    printed: str
    store: Store
    test: AbTest


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsed]:
    home = tmp_path_factory.mktemp("ab-test")
    done = subprocess.run(
        [sys.executable, "-m", "deployments.demo", "--ab-test", "--home", str(home)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with closing(open_store(f"sqlite:///{home / 'store.db'}")) as store:
        [test] = list_tests(store)
        yield Rehearsed(done.stdout, store, test)


def test_the_fitted_model_is_found_better_within_the_rehearsed_span(rehearsed: Rehearsed) -> None:
    looks = list_looks(rehearsed.store, rehearsed.test.id)
    last = looks[-1]
    print(f"better at the bar of {last.bar}, after {last.pairs:,} pairs and {len(looks)} looks")
    assert rehearsed.test.verdict is Verdict.BETTER
    assert START < last.bar < START + LONGEST
    assert [look.word for look in looks] == [None] * (len(looks) - 1) + [Verdict.BETTER]
    assert rehearsed.test.record is not None
    assert rehearsed.test.record["blocks"] >= 10


def test_its_rollout_promotes_it_because_of_the_verdict(rehearsed: Rehearsed) -> None:
    store, test = rehearsed.store, rehearsed.test
    route = get_route(store, test.service)
    assert route is not None
    assert (route.champion, route.previous_champion) == (test.challenger_id, test.champion_id)
    assert get_rollout(store, test.rollout_id).phase is Phase.DONE
    [promoted] = [
        event for event in list_events(store, test.rollout_id) if event.to_phase is Phase.PROMOTED
    ]
    assert promoted.reason == f"promoted: {test.verdict_text}"
    assert test.ended_at is not None
    assert promoted.at >= test.ended_at


def test_each_bar_that_the_exchange_brought_has_a_forecast_of_both(rehearsed: Rehearsed) -> None:
    store, test = rehearsed.store, rehearsed.test
    last = list_looks(store, test.id)[-1]
    span = {"since": test.since_bar, "until": last.bar + timedelta(hours=1)}
    arms = defaultdict(set)
    for row in list_forecasts(store, test.service, role=None, **span):
        arms[row.bar].add(row.model_id)
    assert set(map(frozenset, arms.values())) == {frozenset({test.champion_id, test.challenger_id})}
    assert len(arms) == last.detail["bars"] - last.holes
    assert last.missing == {"champion": {}, "challenger": {}}
    assert list_gaps(store, test.service, **span) == ()


def test_the_page_on_tests_shows_what_was_printed(rehearsed: Rehearsed) -> None:
    shown, printed = (
        re.findall(r"^  (2019-\d\d-\d\d), (\w+): .* over ([\d,]+) pairs", text, re.MULTILINE)
        for text in (PAGE.read_text(encoding="utf-8"), rehearsed.printed)
    )
    assert printed == shown


def test_the_verdict_is_printed_and_drawn(rehearsed: Rehearsed) -> None:
    assert f"better: {rehearsed.test.verdict_text}" in rehearsed.printed
    assert f"{rehearsed.test.challenger_id} serves" in rehearsed.printed
    named = re.search(r"^report +(\S+)$", rehearsed.printed, flags=re.MULTILINE)
    assert named is not None
    report = Path(named[1]).read_text(encoding="utf-8")
    assert report.count('alt="Confidence sequence"') == 1
    assert str(rehearsed.test.verdict_text).split(":")[0] in report
