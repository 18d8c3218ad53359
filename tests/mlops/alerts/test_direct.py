"""People are told of a store that is away, though an alert is a row of the store."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlops.alerts.direct import RETRY_S, TELL_EVERY_S, DirectAlerts
from mlops.errors import AlertNotSent
from mlops.store.alerts import Notice, Occasion

RAISED, REMINDER, RECOVERED = Occasion.RAISED, Occasion.REMINDER, Occasion.RECOVERED


class Recorded:
    """A channel that keeps what it is sent; with an ``error`` it takes nothing."""

    takes_batches = True
    error: Exception | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[tuple[Occasion, str, str]] = []

    def send(self, notices: Sequence[Notice], *, brief: bool = False) -> None:
        if self.error is not None:
            raise self.error
        self.sent += [(notice.occasion, notice.alert.subject, notice.text) for notice in notices]


class Case:
    """A process with two channels, whose troubles and clock a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.troubles: dict[str, str] = {}
        self.mail, self.slack = Recorded("mail"), Recorded("slack")
        self.alerts = DirectAlerts(
            (self.mail, self.slack), "r1", lambda: self.troubles, clock=lambda: self.now_s
        )

    def after(self, seconds: float, **troubles: str) -> list[Occasion]:
        """What mail has been sent in all, after another look."""
        self.now_s += seconds
        self.troubles = troubles
        self.alerts.tell()
        return [occasion for occasion, _, _ in self.mail.sent]


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_trouble_is_told_once_an_hour_and_when_it_is_over(case: Case) -> None:
    assert case.after(0, away="gone") == [RAISED]
    assert case.after(TELL_EVERY_S - 1, away="gone") == [RAISED]
    assert case.after(1, away="gone") == [RAISED, REMINDER]
    assert case.after(5) == [RAISED, REMINDER, RECOVERED]
    assert case.after(5) == [RAISED, REMINDER, RECOVERED]
    assert case.mail.sent == case.slack.sent
    assert case.mail.sent[0] == (RAISED, "away", "gone")


def test_a_trouble_that_comes_and_goes_begins_once_an_hour(case: Case) -> None:
    case.after(0, away="gone")
    case.after(5)
    assert case.after(5, away="gone") == [RAISED, RECOVERED]
    assert case.after(5) == [RAISED, RECOVERED]
    assert case.after(TELL_EVERY_S, away="gone") == [RAISED, RECOVERED, RAISED]


def test_an_end_that_no_channel_took_is_sent_again_after_a_pause(case: Case) -> None:
    case.after(0, away="gone")
    case.mail.error = case.slack.error = AlertNotSent("down")
    case.after(5)
    case.mail.error = None
    assert case.after(RETRY_S - 1) == [RAISED]
    assert case.after(1) == [RAISED, RECOVERED]


def test_what_comes_back_after_its_end_was_told_is_told_within_a_minute(case: Case) -> None:
    case.after(0, away="gone")
    case.after(5)
    assert case.after(RETRY_S, away="gone") == [RAISED, RECOVERED, RAISED]


def test_each_trouble_is_told_for_itself(case: Case) -> None:
    case.after(0, away="gone")
    case.after(5, away="gone", full="no space")
    assert [subject for _, subject, _ in case.mail.sent] == ["away", "full"]


@pytest.mark.parametrize("error", [AlertNotSent("down"), TypeError("a defect")])
def test_a_channel_that_fails_keeps_no_other_one_from_telling(case: Case, error: Exception) -> None:
    case.mail.error = error
    case.after(0, away="gone")
    assert case.slack.sent == [(RAISED, "away", "gone")]


def test_what_no_channel_took_is_sent_again(case: Case) -> None:
    case.mail.error = case.slack.error = AlertNotSent("down")
    case.after(0, away="gone")
    case.mail.error = None
    assert case.after(RETRY_S - 1, away="gone") == []
    assert case.after(1, away="gone") == [RAISED]


def test_without_channels_the_log_tells(caplog: pytest.LogCaptureFixture) -> None:
    DirectAlerts((), "r1", lambda: {"away": "gone"}).tell()
    assert caplog.messages == ["away of r1: gone"]
