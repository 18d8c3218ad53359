"""A look is written once for each bar, with its verdict and alert, and never after the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlops.ab_testing import evaluation
from mlops.ab_testing.loss_variance import Record, variance_of_record
from mlops.store import Verdict, list_audit_entries
from mlops.store.ab_tests import GapReason, conclude_test, list_looks
from mlops.store.alerts import Condition, list_alerts
from mlops.store.request_counts import Source, Tally, record_tallies
from tests.mlops.ab_testing.stage import (
    CHALLENGER,
    CHAMPION,
    RECORD,
    VOLATILITY,
    WHY,
    Stage,
    hour,
)


def live(stage: Stage, bars: int, gain: float, *, since: int = 0, **begun: Any) -> None:
    """So many bars on which the challenger's squared errors are smaller by this share."""
    if not stage.test_id:
        stage.begin(**begun)
    rng = np.random.default_rng([since, bars])
    errors = rng.normal(0.0, 1.0, bars)
    span = range(since, since + bars)
    stage.forecast(span, errors, errors * np.sqrt(1.0 - gain) + rng.normal(0.0, 0.02, bars))
    stage.settle(span)


def test_no_look_is_written_before_an_outcome_is_due(stage: Stage) -> None:
    stage.begin()
    assert stage.look(1) is None
    assert list_looks(stage.store, stage.test_id) == ()


def test_a_second_look_at_a_bar_returns_the_first(stage: Stage) -> None:
    live(stage, 60, 0.1)
    first = stage.look(61)
    stage.settle([59], 5.0, kind="revised")
    assert stage.look(61) == first
    assert stage.look(40) == first
    assert list_looks(stage.store, stage.test_id) == (first,)


def test_a_later_bar_is_looked_at_anew_and_p_only_falls(stage: Stage) -> None:
    live(stage, 150, 0.1, least=400)
    looks = [stage.look(bars) for bars in (120, 130, 140, 151)]
    assert [look.bar for look in looks] == [hour(bar) for bar in (118, 128, 138, 149)]
    assert [look.p for look in looks] == sorted((look.p for look in looks), reverse=True)
    assert looks[-1].pairs == 150


def test_a_better_challenger_is_found_after_the_least_duration_and_never_before(
    stage: Stage,
) -> None:
    live(stage, 300, 0.3, least=250)
    assert stage.look(249).word is None
    look = stage.look(251)
    assert look.word is Verdict.BETTER
    assert look.low > 0.0
    assert (stage.test.verdict, stage.test.verdict_text) == (Verdict.BETTER, look.detail["text"])
    assert list_alerts(stage.store) == ()


def test_a_worse_challenger_ends_the_test_at_once_and_people_are_told_once(stage: Stage) -> None:
    live(stage, 200, -0.4, least=1000)
    assert stage.look(201).word is Verdict.WORSE
    (alert,) = list_alerts(stage.store)
    assert (alert.condition, alert.subject) == (Condition.DEPLOYMENT_FAILED, CHALLENGER)
    assert CHAMPION in alert.text


def test_identical_forecasts_are_equivalent(stage: Stage) -> None:
    stage.begin()
    errors = np.random.default_rng(1).normal(size=150)
    stage.forecast(range(150), errors, errors)
    stage.settle(range(150))
    assert stage.look(151).word is Verdict.EQUIVALENT
    assert list_alerts(stage.store) == ()


def test_nothing_is_written_on_a_test_that_has_its_verdict(stage: Stage) -> None:
    live(stage, 200, -0.4)
    with stage.store.write() as connection:
        conclude_test(connection, stage.test_id, Verdict.STOPPED, "stopped by anna", WHY)
    assert stage.look(201) is None
    assert list_looks(stage.store, stage.test_id) == ()
    assert stage.test.verdict is Verdict.STOPPED


def test_a_test_that_ends_while_it_is_read_keeps_that_verdict(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(stage, 200, -0.4)
    judge = evaluation.judge_pairs

    def stopped_meanwhile(*given: Any, **named: Any) -> Any:
        with stage.store.write() as connection:
            conclude_test(connection, stage.test_id, Verdict.STOPPED, "stopped by anna", WHY)
        return judge(*given, **named)

    monkeypatch.setattr(evaluation, "judge_pairs", stopped_meanwhile)
    assert stage.look(201) is None
    assert stage.test.verdict is Verdict.STOPPED
    assert list_alerts(stage.store) == ()


def test_a_look_whose_verdict_fails_leaves_no_row(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(stage, 200, -0.4)

    def fail(*given: Any, **named: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(evaluation, "raise_challenger_worse", fail)
    with pytest.raises(OSError, match="full"):
        stage.look(201)
    assert list_looks(stage.store, stage.test_id) == ()
    assert stage.test.verdict is None


def test_forty_eight_hours_at_a_horizon_of_a_day_are_inconclusive(stage: Stage) -> None:
    stage.service = replace(VOLATILITY, horizon=24)
    live(stage, 48, 0.5, hours=24)
    assert stage.look(47).word is None
    look = stage.look(48)
    assert (look.word, look.pairs, look.bar) == (Verdict.INCONCLUSIVE, 24, hour(23))
    assert look.detail["pairs_needed"] == 480
    assert "480" in look.detail["text"]


def test_a_test_whose_bars_nobody_forecast_ends_all_the_same(stage: Stage) -> None:
    stage.begin(hours=30)
    assert stage.look(20).word is None
    look = stage.look(31)
    assert (look.word, look.pairs, look.holes) == (Verdict.INCONCLUSIVE, 0, 30)


def test_a_challenger_that_does_not_answer_is_worse(stage: Stage) -> None:
    live(stage, 114, 0.3)
    stage.forecast(range(114, 120), 0.5, None)
    stage.gaps(range(114, 120), GapReason.TIME_BUDGET)
    look = stage.look(121)
    assert look.word is Verdict.WORSE
    assert dict(look.missing["challenger"]) == {"time_budget": 6}
    assert "does not answer" in look.detail["text"]


@pytest.mark.parametrize("reason", [GapReason.NOT_LOADED, None])
def test_rows_missing_for_the_replicas_reasons_make_a_test_invalid(
    stage: Stage, reason: GapReason | None
) -> None:
    live(stage, 110, -0.6)
    stage.forecast(range(110, 120), 0.5, None)
    if reason is not None:
        stage.gaps(range(110, 120), reason)
    assert stage.look(121).word is Verdict.INVALID
    assert list_alerts(stage.store) == ()


def test_without_a_record_no_verdict_comes_before_twenty_weeks(stage: Stage) -> None:
    live(stage, 300, 0.5, record=None)
    look = stage.look(301)
    assert (look.word, look.low) == (None, None)
    assert look.detail["pairs_needed"] == 20 * 168


def test_a_look_counts_the_keys_that_were_dealt(stage: Stage) -> None:
    live(stage, 10, 0.1)
    mirror, live_tally = (
        Tally("rollout-1", 0, source, "r0", "one", champion_trials=90, challenger_trials=310)
        for source in (Source.MIRROR, Source.LIVE)
    )
    record_tallies(stage.store, {stage.service.key: [mirror, live_tally]})
    look = stage.look(11)
    assert look.dealt == {"champion": 90, "challenger": 310}
    assert look.detail["split"]["planned"] == 0.5
    assert not look.detail["split"]["as_planned"]


def test_a_look_reports_regimes_and_hits_that_do_not_decide(stage: Stage) -> None:
    live(stage, 120, 0.1)
    look = stage.look(121)
    assert [row["regime"] for row in look.detail["regimes"]] == ["low", "middle", "high"]
    assert sum(row["pairs"] for row in look.detail["regimes"]) == 120
    assert set(look.detail["hits"]) == {"champion", "challenger"}
    assert "net_return" not in look.detail


def test_a_look_judges_by_the_record_that_was_read_when_the_test_began(stage: Stage) -> None:
    loud = RECORD | {"variance_difference": 100.0}
    live(stage, 300, 0.3, record=loud)
    look = stage.look(301)
    assert (look.word, look.variance_source) == (None, "record")
    assert look.variance == pytest.approx(variance_of_record(Record.from_dict(loud)))


def test_the_verdict_is_on_record_with_the_test_as_its_author(stage: Stage) -> None:
    live(stage, 200, -0.4)
    look = stage.look(201)
    entry = list_audit_entries(stage.store, subject=CHALLENGER)[-1]
    assert (entry.action, entry.actor) == ("conclude_ab_test", "ab_test")
    assert entry.reason == look.detail["text"]
