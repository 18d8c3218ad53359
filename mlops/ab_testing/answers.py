"""What a caller is told of an A/B test, in the caller's own words: model A and model B.

Rows, statistics and verdicts know champion and challenger only. This module is the one place where
they are translated back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mlops.ab_testing.lifecycle import AbTesting
from mlops.ab_testing.preflight import Preflight
from mlops.ab_testing.requests import AbTestRequest
from mlops.json_values import to_json
from mlops.rollout.plan import EVERYTHING_BP
from mlops.store import Verdict, Why
from mlops.store.ab_tests import AbLook, AbTest, get_test, newest_look
from mlops.store.pages import Page, Position
from mlops.store.rollout_pages import list_test_page


@dataclass(frozen=True, slots=True, kw_only=True)
class AbTestAnswer:
    """An A/B test as its caller named it.

    Attributes:
        traffic_split: The share of the requests that model B answers.
        verdict: ``winner_a``, ``winner_b``, ``equivalent``, ``inconclusive``, ``invalid``,
            ``stopped``; None while the test runs.
        winner: The model id of the winner; None where there is none.
        text: The verdict, or what is known so far, as a sentence.
        low, high: Bounds of model B's gain over model A as a share of the champion's loss, above
            0 where B is better; None where they are not known yet.
        effect: Model B's gain over model A on the pairs so far, as a share of the champion's loss.
        p: The always-valid p-value of the two being equal.
        pairs_needed: Pairs before a verdict on the losses is possible, and later those that would
            decide if mean and variance stayed as they are; None where no number is in sight.
        is_collecting: Whether the pairs are too few for a verdict on the losses.
        confidence_level: Of the interval.
        plan: The preflight; in the answer of the start only.
        look: The newest look, in the words of champion and challenger.
    """

    id: str
    service: str
    name: str
    model_a: str
    model_b: str
    champion: str
    challenger: str
    traffic_split: float
    state: str
    verdict: str | None
    winner: str | None
    text: str
    pairs: int
    low: float | None
    high: float | None
    effect: float | None
    p: float
    pairs_needed: int | None
    is_collecting: bool
    confidence_level: float
    since_bar: datetime
    until_bar: datetime
    promote: bool
    rollout_id: str
    plan: Preflight | None = None
    look: AbLook | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {name: getattr(self, name) for name in AbTestAnswer.__slots__}
        values |= {
            "since_bar": self.since_bar.isoformat(),
            "until_bar": self.until_bar.isoformat(),
            "plan": None if self.plan is None else self.plan.to_dict(),
            "look": None if self.look is None else _look_to_dict(self.look),
        }
        legal: dict[str, Any] = to_json(values)
        return legal

    def __str__(self) -> str:
        title = f"{self.id} on {self.service}: A {self.model_a} against B {self.model_b}"
        ended = self.state if self.verdict is None else self.verdict
        return f"{title}: {ended}. {self.text}"


def start_test(testing: AbTesting, request: AbTestRequest, why: Why) -> AbTestAnswer:
    """As `AbTesting.start`, answered in its caller's words."""
    started = testing.start(request, why)
    return answer_of(started.test, None, started.plan)


def read_answer(testing: AbTesting, test_id: str) -> AbTestAnswer:
    """A test as it is on record; no look is made.

    Raises:
        AbTestNotFound: when there is no such test.
    """
    return _describe_newest(testing, get_test(testing.store, test_id))


def evaluate_test(testing: AbTesting, test_id: str) -> AbTestAnswer:
    """As `AbTesting.look`, answered in its caller's words."""
    return _describe_newest(testing, testing.look(test_id).test)


def stop_test(testing: AbTesting, test_id: str, why: Why) -> AbTestAnswer:
    """As `AbTesting.stop`, answered in its caller's words."""
    return _describe_newest(testing, testing.stop(test_id, why))


def extend_test(testing: AbTesting, test_id: str, hours: float, why: Why) -> AbTestAnswer:
    """As `AbTesting.extend`, answered in its caller's words."""
    return _describe_newest(testing, testing.extend(test_id, hours, why))


def list_answers(testing: AbTesting, service: str | None = None) -> tuple[AbTestAnswer, ...]:
    """The tests of a service or of all, newest first."""
    return tuple(_describe_test(testing, test, look) for test, look in testing.tests(service))


def list_answer_page(
    testing: AbTesting, *, service: str | None, after: Position | None, limit: int
) -> Page[AbTestAnswer]:
    """A page of the tests of a service or of all, newest first."""
    page = list_test_page(testing.store, service=service, after=after, limit=limit)
    rows = tuple(_describe_test(testing, test, look) for test, look in page.rows)
    return Page(rows=rows, next=page.next)


def answer_of(
    test: AbTest,
    look: AbLook | None,
    plan: Preflight | None = None,
    *,
    needed: int | None = None,
) -> AbTestAnswer:
    """Translate a test and its newest look into its caller's words.

    Args:
        needed: Pairs that a verdict needs, of a test without a look or a plan.
    """
    b_is_challenger = test.champion_is == "a"
    models = (test.champion_id, test.challenger_id)
    share = test.split_bp / EVERYTHING_BP
    low, high = (None, None) if look is None else (look.relative_low, look.relative_high)
    effect = _measure_gain(look)
    if look is not None:
        needed = look.detail.get("pairs_needed")
    elif plan is not None:
        needed = plan.needed_pairs
    if not b_is_challenger:
        low, high, effect = _negate(high), _negate(low), _negate(effect)
    return AbTestAnswer(
        id=test.id,
        service=test.service,
        name=test.name,
        model_a=models[0] if b_is_challenger else models[1],
        model_b=models[1] if b_is_challenger else models[0],
        champion=test.champion_id,
        challenger=test.challenger_id,
        traffic_split=share if b_is_challenger else 1.0 - share,
        state=str(test.state),
        verdict=translate_verdict(test),
        winner=winner_of(test),
        text=_text_of(test, look, plan),
        pairs=0 if look is None else look.pairs,
        low=low,
        high=high,
        effect=effect,
        p=1.0 if look is None else look.p,
        pairs_needed=needed,
        is_collecting=look is None or look.low is None,
        confidence_level=1.0 - test.alpha,
        since_bar=test.since_bar,
        until_bar=test.until_bar,
        promote=test.promote,
        rollout_id=test.rollout_id,
        plan=plan,
        look=look,
    )


def winner_of(test: AbTest) -> str | None:
    """The model id of the winner; None where nobody has won."""
    if test.verdict is Verdict.BETTER:
        return test.challenger_id
    return test.champion_id if test.verdict is Verdict.WORSE else None


def translate_verdict(test: AbTest) -> str | None:
    """The verdict in its caller's words: ``winner_a`` and ``winner_b`` for better and worse."""
    if test.verdict is None:
        return None
    if test.verdict not in (Verdict.BETTER, Verdict.WORSE):
        return str(test.verdict)
    champion_won = test.verdict is Verdict.WORSE
    a_won = champion_won == (test.champion_is == "a")
    return "winner_a" if a_won else "winner_b"


def _text_of(test: AbTest, look: AbLook | None, plan: Preflight | None) -> str:
    if test.verdict_text is not None:
        return test.verdict_text
    if look is not None:
        return str(look.detail.get("text", ""))
    return "No outcome is due yet." if plan is None else plan.text


def _describe_newest(testing: AbTesting, test: AbTest) -> AbTestAnswer:
    return _describe_test(testing, test, newest_look(testing.store, test.id))


def _describe_test(testing: AbTesting, test: AbTest, look: AbLook | None) -> AbTestAnswer:
    """A test with its newest look; without one, with the pairs that a verdict needs."""
    return answer_of(test, look, needed=testing.count_first_pairs(test) if look is None else None)


def _measure_gain(look: AbLook | None) -> float | None:
    """The challenger's gain as a share of the champion's loss; None before the first pair."""
    losses = {} if look is None else look.detail
    champion, challenger = losses.get("champion_loss"), losses.get("challenger_loss")
    if not champion or challenger is None:
        return None
    return 1.0 - float(challenger) / float(champion)


def _negate(value: float | None) -> float | None:
    return None if value is None else -value


def _look_to_dict(look: AbLook) -> Mapping[str, Any]:
    return asdict(look) | {"bar": look.bar.isoformat(), "at": look.at.isoformat()}
