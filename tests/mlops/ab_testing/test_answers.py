"""Answers speak of model A and model B, whichever of them is the champion."""

from __future__ import annotations

import json

import pytest

from mlops.ab_testing.answers import answer_of, winner_of
from mlops.store import Verdict
from mlops.store.ab_tests import conclude_test
from tests.mlops.ab_testing.stage import CHALLENGER, CHAMPION, WHY, Stage
from tests.mlops.ab_testing.test_evaluation import live

TRANSLATED = {
    # verdict: (in the words of a caller whose model A, or whose model B, is the champion), winner
    Verdict.BETTER: ("winner_b", "winner_a", CHALLENGER),
    Verdict.WORSE: ("winner_a", "winner_b", CHAMPION),
    Verdict.EQUIVALENT: ("equivalent", "equivalent", None),
    Verdict.INCONCLUSIVE: ("inconclusive", "inconclusive", None),
    Verdict.INVALID: ("invalid", "invalid", None),
    Verdict.STOPPED: ("stopped", "stopped", None),
}


@pytest.mark.parametrize("champion_is", ["a", "b"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_translated_whoever_is_champion(
    stage: Stage, verdict: Verdict, champion_is: str
) -> None:
    stage.begin(champion_is=champion_is)
    with stage.store.write() as connection:
        conclude_test(connection, stage.test_id, verdict, "So it ended.", WHY)
    answer = answer_of(stage.test, None)
    as_a, as_b, winner = TRANSLATED[verdict]
    assert answer.verdict == (as_a if champion_is == "a" else as_b)
    assert answer.winner == winner_of(stage.test) == winner
    named = (answer.model_a, answer.model_b)
    assert named == ((CHAMPION, CHALLENGER) if champion_is == "a" else (CHALLENGER, CHAMPION))
    if answer.verdict in ("winner_a", "winner_b"):
        assert winner == (answer.model_a if answer.verdict == "winner_a" else answer.model_b)
    assert (answer.state, answer.text) == ("concluded", "So it ended.")


@pytest.mark.parametrize("champion_is", ["a", "b"])
def test_the_gain_is_that_of_model_b(stage: Stage, champion_is: str) -> None:
    live(stage, 300, 0.3, champion_is=champion_is)
    look = stage.look(301)
    answer = answer_of(stage.test, look)
    gain = (answer.low, answer.high)
    own = (look.relative_low, look.relative_high)
    assert gain == (own if champion_is == "a" else (-own[1], -own[0]))
    assert (answer.low > 0.0) is (champion_is == "a")
    assert answer.winner == CHALLENGER


def test_an_answer_is_json_and_reads_as_a_sentence(stage: Stage) -> None:
    live(stage, 40, 0.1, champion_is="b", split_bp=2000, name="weekly")
    answer = answer_of(stage.test, stage.look(41))
    read = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert (read["verdict"], read["traffic_split"], read["pairs"]) == (None, 0.8, 40)
    assert read["look"]["missing"] == {"champion": {}, "challenger": {}}
    assert read["text"].startswith("No verdict yet: 40 pairs")
    assert str(answer).startswith("ab-1 on simulator.btc-usd.1h.volatility.1: A challenger against")
