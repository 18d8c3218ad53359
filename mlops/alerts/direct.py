"""Alerts that need no store: sent from this process straight to its channels.

An alert is a row of the store, so of a store that is away, or of a full disk, nobody would be told.
Such a trouble is told here when it begins, each hour while it lasts, and when it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from mlops.alerts.delivery import Channel
from mlops.background import Repeated
from mlops.errors import AlertNotSent
from mlops.store.alerts import AlertRow, Condition, Notice, Occasion, Severity

log = logging.getLogger(__name__)

LOOK_S = 5.0
TELL_EVERY_S = 3600.0
"""Seconds between two messages of one trouble that begins or lasts."""

RETRY_S = 60.0
"""Seconds after which a message that no channel took is sent again."""


class DirectAlerts:
    """Tells people of the troubles of one process, from `start` to `stop`.

    Args:
        source: The name of this process in the messages.
        find_troubles: Returns the text of each trouble that there is now, by its subject.
        clock: Gives the seconds by which messages are counted.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        source: str,
        find_troubles: Callable[[], Mapping[str, str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.channels = channels
        self.source = source
        self.find_troubles = find_troubles
        self.clock = clock
        self._raised_at: dict[str, datetime] = {}
        self._due_at: dict[str, float] = {}
        self._end_due_at: dict[str, float] = {}
        self._loop = Repeated("direct alerts", LOOK_S, self.tell, at_once=False)

    def start(self) -> None:
        """Look for troubles each `LOOK_S` seconds from now on."""
        self._loop.start()

    def stop(self) -> None:
        """End after the message under way."""
        self._loop.stop()

    def tell(self) -> None:
        """Look once, and send what is due."""
        troubles, now_s = self.find_troubles(), self.clock()
        for subject, text in troubles.items():
            if now_s < self._due_at.get(subject, now_s):
                continue
            occasion = Occasion.REMINDER if subject in self._raised_at else Occasion.RAISED
            raised_at = self._raised_at.get(subject) or datetime.now(UTC)
            is_sent = self._send(subject, text, occasion, raised_at)
            self._due_at[subject] = now_s + (TELL_EVERY_S if is_sent else RETRY_S)
            if is_sent:
                self._raised_at[subject] = raised_at
        for subject in self._raised_at.keys() - troubles.keys():
            if now_s >= self._end_due_at.get(subject, now_s):
                self._tell_end(subject, now_s)

    def _tell_end(self, subject: str, now_s: float) -> None:
        self._end_due_at[subject] = now_s + RETRY_S
        text, raised_at = f"{subject}: it is over", self._raised_at[subject]
        if self._send(subject, text, Occasion.RECOVERED, raised_at):
            del self._raised_at[subject], self._end_due_at[subject]
            # It is told again where it comes back, but not each time that it flickers.
            self._due_at[subject] = now_s + RETRY_S

    def _send(self, subject: str, text: str, occasion: Occasion, raised_at: datetime) -> bool:
        """Send a message to every channel; True where at least one took it, or there is none."""
        log.warning("%s of %s: %s", subject, self.source, text)
        notice, taken = self._make_notice(subject, text, occasion, raised_at), not self.channels
        for channel in self.channels:
            try:
                channel.send([notice])
            except AlertNotSent as error:
                log.warning("channel=%s did not take a direct alert: %s", channel.name, error)
            except Exception:
                # A defect of one channel must not keep the others from telling.
                log.exception("channel=%s failed", channel.name)
            else:
                taken = True
        return taken

    def _make_notice(
        self, subject: str, text: str, occasion: Occasion, raised_at: datetime
    ) -> Notice:
        now, condition = datetime.now(UTC), Condition.SYSTEM_TROUBLE
        alert = AlertRow(
            id=f"{self.source}/{subject}",
            key=f"{condition}/{self.source}/{subject}",
            condition=condition,
            severity=Severity.CRITICAL,
            service=self.source,
            subject=subject,
            title=f"{subject} ({self.source})",
            text=text,
            detail={},
            raised_at=raised_at,
            last_seen_at=now,
            times_seen=1,
            recovered_at=now if occasion is Occasion.RECOVERED else None,
        )
        return Notice(0, occasion, now, text, attempts=1, age_s=0.0, alert=alert)
