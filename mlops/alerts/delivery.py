"""Tells people: every channel at its own pace, each in a thread of its own.

What is to be told waits in the store, so nothing is lost when a channel, or this process, is
down, and a channel that hangs keeps nobody else waiting. A message that was sent just before a
process died, and not noted, is sent once more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlops.errors import AlertNotSent, StoreError
from mlops.store.alerts import Notice, Occasion, claim_notices, note_failed, note_sent
from mlops.store.engine import Store

log = logging.getLogger(__name__)

CLAIM_S = 60.0
"""A process that claimed notices and died keeps them for so long; no channel may take longer."""

POLL_S = 1.0
MESSAGES_PER_HOUR = 30


class Channel(Protocol):
    """A way to reach people; ``name`` stays the same over restarts.

    Where it takes notices ``together``, those that wait make one message.
    """

    @property
    def name(self) -> str: ...

    @property
    def takes_batches(self) -> bool: ...

    def send(self, notices: Sequence[Notice]) -> None:
        """Tell these in one go, within seconds.

        Raises:
            AlertNotSent: saying why; they are told again later.
        """
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """What a person reads."""

    title: str
    text: str


def compose_message(notices: Sequence[Notice]) -> Message:
    """One message of one or several notices."""
    if len(notices) == 1:
        return Message(_title(notices[0]), _text(notices[0]))
    parts = [f"{_title(one)}\n{_text(one)}" for one in notices]
    return Message(f"{len(notices)} alerts", "\n\n".join(parts))


def deliver_notices(
    store: Store, channel: Channel, *, messages_per_hour: int = MESSAGES_PER_HOUR
) -> tuple[Notice, ...]:
    """Tell a channel what waits for it; returns what was told."""
    notices = claim_notices(
        store, channel.name, seconds=CLAIM_S, messages_per_hour=messages_per_hour
    )
    groups = [notices] if channel.takes_batches and notices else [(one,) for one in notices]
    told: list[Notice] = []
    for group in groups:
        try:
            channel.send(group)
        except AlertNotSent as error:
            log.warning("channel=%s %d notices wait: %s", channel.name, len(group), error)
            note_failed(store, channel.name, group, str(error))
        else:
            note_sent(store, channel.name, group)
            told += group
    return tuple(told)


class AlertSender:
    """Carries notices to channels from `start` to `stop`."""

    def __init__(
        self,
        store: Store,
        channels: Sequence[Channel] = (),
        *,
        messages_per_hour: int = MESSAGES_PER_HOUR,
        poll_s: float = POLL_S,
    ) -> None:
        self.store = store
        self.messages_per_hour = messages_per_hour
        self.poll_s = poll_s
        self._started = False
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        for channel in channels:
            self.add_channel(channel)

    def add_channel(self, channel: Channel) -> None:
        """One more channel; of two that have the same name the first one stays."""
        if channel.name in self._threads:
            return
        thread = threading.Thread(
            target=self._run, args=(channel,), name=f"alerts {channel.name}", daemon=True
        )
        self._threads[channel.name] = thread
        if self._started:
            thread.start()

    def start(self) -> None:
        """Begin; what waits in the store goes out first."""
        self._started = True
        for thread in self._threads.values():
            thread.start()

    def stop(self, *, wait_s: float = 5.0) -> None:
        """End after the messages under way; what hangs is left to the next process."""
        self._stop.set()
        for thread in self._threads.values():
            if thread.is_alive():
                thread.join(wait_s)

    def _run(self, channel: Channel) -> None:
        while not self._stop.is_set():
            try:
                deliver_notices(self.store, channel, messages_per_hour=self.messages_per_hour)
            except StoreError as error:
                log.warning("channel=%s alerts wait for the store: %s", channel.name, error)
            except Exception:
                # It may be the only channel that people read: it is asked again.
                log.exception("channel=%s a delivery failed", channel.name)
            self._stop.wait(self.poll_s)


_PREFIX = {Occasion.RAISED: "", Occasion.REMINDER: "Still: ", Occasion.RECOVERED: "Recovered: "}


def _title(notice: Notice) -> str:
    one = notice.alert
    grave = "" if notice.occasion is Occasion.RECOVERED else f"[{one.severity.upper()}] "
    return f"{grave}{_PREFIX[notice.occasion]}{one.title}"


def _text(notice: Notice) -> str:
    one = notice.alert
    lines = [
        notice.text,
        f"service {one.service}: {one.condition}, {one.subject}",
        f"since {one.raised_at:%Y-%m-%d %H:%M} UTC, seen {one.times_seen} times",
    ]
    return "\n".join(lines)
