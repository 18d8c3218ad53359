"""One look at an A/B test: reads its pairs, judges them, writes look, verdict and alert at once.

The look's key is the newest bar whose outcome is due. A second look at the same bar returns the
first, and nothing is written once the test has its verdict. The route is not touched here: the
controller moves it by the stored verdict.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from mlops.ab_testing.decision import Judgement, Moment, Record, judge_pairs
from mlops.ab_testing.pair_reading import Arms, Readings, list_due_opens, read_test_bars
from mlops.ab_testing.secondary_figures import measure_secondary
from mlops.alerts.conditions import raise_challenger_worse
from mlops.arrays import aware_utc
from mlops.json_values import to_json
from mlops.rollout.plan import EVERYTHING_BP
from mlops.stats.confidence_sequence import share_mismatch_evidence
from mlops.store import Store, Verdict, Why
from mlops.store.ab_tests import AbLook, AbTest, conclude_test, newest_look, write_look
from mlops.store.engine import Connection
from mlops.store.request_counts import Source, read_tallies
from mlops.store.schema import AbState
from mlops.store.sql import store_time

log = logging.getLogger(__name__)

LEAST_KEYS = 100
"""The split is compared with the plan from so many dealt keys on."""


def look_at_test(
    store: Store,
    test: AbTest,
    arms: Arms,
    *,
    now: datetime,
    fee_bps: float,
    at: datetime | None = None,
) -> AbLook | None:
    """Look at a test; returns its newest look, None where no outcome is due yet.

    Args:
        now: Market time: bars whose outcome is due by then are read.
        fee_bps: Costs of one turnover, for the profit that is reported and never decides.
        at: Replaces the store's clock in rehearsals.
    """
    last = newest_look(store, test.id)
    due = list_due_opens(arms.service, arms.calendar, since=test.since_bar, now=now)
    if test.state is AbState.CONCLUDED or not len(due):
        return last
    newest = aware_utc(due[-1])
    if last is not None and newest <= last.bar:
        return last
    readings = read_test_bars(store, arms, since=test.since_bar, due=due)
    judgement = judge_pairs(
        readings.pairs,
        None if test.record is None else Record.from_dict(test.record),
        readings.missing,
        Moment(may_win=newest >= test.min_until_bar, is_over=newest >= test.until_bar),
        alpha=test.alpha,
        bars_per_week=arms.bars_per_week,
        lowest_p=1.0 if last is None else last.p,
    )
    detail = describe_detail(judgement, readings, fee_bps=fee_bps)
    with store.write() as connection:
        moment = at or store_time(connection)
        look = _make_look(connection, test, judgement, readings, detail, bar=newest, at=moment)
        if write_look(connection, look):
            _conclude(connection, test, judgement, moment)
            return look
    # Another process looked at this bar first, or the test has ended meanwhile.
    return newest_look(store, test.id)


def describe_detail(judgement: Judgement, readings: Readings, *, fee_bps: float) -> dict[str, Any]:
    """What a look keeps beside the figures that decide, as JSON."""
    detail: dict[str, Any] = to_json(
        {
            "text": judgement.text,
            "pairs_needed": judgement.pairs_needed,
            "zone_low": judgement.zone_low,
            "zone_high": judgement.zone_high,
            "bars": readings.missing.bars,
            **measure_secondary(readings, fee_bps=fee_bps),
        }
    )
    return detail


def _make_look(
    connection: Connection,
    test: AbTest,
    judgement: Judgement,
    readings: Readings,
    detail: Mapping[str, Any],
    *,
    bar: datetime,
    at: datetime,
) -> AbLook:
    dealt = _count_dealt(connection, test)
    return AbLook(
        test_id=test.id,
        bar=bar,
        at=at,
        pairs=judgement.pairs,
        mean=_number(judgement.mean),
        variance=_number(judgement.variance),
        variance_source=None
        if judgement.variance_source is None
        else str(judgement.variance_source),
        standard_error=_number(judgement.standard_error),
        z=_number(judgement.z),
        low=_number(judgement.low),
        high=_number(judgement.high),
        relative_low=_number(judgement.relative_low),
        relative_high=_number(judgement.relative_high),
        p=judgement.p,
        holes=readings.missing.holes,
        missing={
            "champion": dict(readings.missing.champion),
            "challenger": dict(readings.missing.challenger),
        },
        dealt=dealt,
        word=judgement.word,
        detail={**detail, "split": _describe_split(test, dealt)},
        digest=readings.digest,
    )


def _conclude(connection: Connection, test: AbTest, judgement: Judgement, at: datetime) -> None:
    verdict = judgement.word
    if verdict is None:
        return
    why = Why(at, actor="ab_test", reason=judgement.text)
    conclude_test(connection, test.id, verdict, judgement.text, why)
    if verdict is Verdict.WORSE:
        raise_challenger_worse(connection, test, judgement.text, at=at)
    log.info(
        "service=%s test %s ended as %s: %s", test.service, test.id, verdict, judgement.text,
        extra={"service": test.service, "model_id": test.challenger_id},
    )  # fmt: skip


def _count_dealt(connection: Connection, test: AbTest) -> dict[str, int]:
    """Keys that clients' requests brought in a minute, by the arm that was dealt each."""
    tallies = [
        tally
        for tally in read_tallies(connection, test.service, test.rollout_id)
        if tally.source is Source.LIVE
    ]
    return {
        "champion": sum(tally.champion_trials for tally in tallies),
        "challenger": sum(tally.challenger_trials for tally in tallies),
    }


def _describe_split(test: AbTest, dealt: Mapping[str, int]) -> dict[str, Any]:
    """The planned share and the evidence against it, which is advice and decides nothing."""
    planned, keys = test.split_bp / EVERYTHING_BP, sum(dealt.values())
    evidence = 1.0
    if keys >= LEAST_KEYS and 0.0 < planned < 1.0:
        counts = (dealt["champion"], dealt["challenger"])
        evidence = share_mismatch_evidence(counts, (1.0 - planned, planned))
    return {
        "planned": planned,
        "got": dealt["challenger"] / keys if keys else None,
        "evidence": evidence,
        "as_planned": evidence < 1.0 / test.alpha,
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
