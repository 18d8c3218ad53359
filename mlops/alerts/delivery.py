"""Delivers notices of alerts to channels, each channel in a thread of its own.

    notices wait in the store -> claimed for a channel -> sent -> noted as sent, or to be retried

A notice stays in the store until a channel has sent it, so none is lost while a channel or this
process is down, and a channel that hangs delays no other one. Delivery is at least once: a notice
that was sent just before its process died, and not noted, is sent again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlops.errors import AlertNotSent, StoreError
from mlops.store import Store
from mlops.store.alerts import Notice, Occasion, claim_notices, note_failed, note_sent

log = logging.getLogger(__name__)

CLAIM_S = 60.0
"""How long a claim of notices lasts when its process dies; no channel may take longer to send."""

POLL_S = 1.0
MESSAGES_PER_HOUR = 30


class Channel(Protocol):
    """A way to reach people.

    Attributes:
        name: Identifies the channel in the store, so it must stay the same over restarts.
        takes_batches: Whether all notices that wait are sent as one message, or one by one.
    """

    @property
    def name(self) -> str: ...

    @property
    def takes_batches(self) -> bool: ...

    def send(self, notices: Sequence[Notice]) -> None:
        """Send the notices within seconds.

        Raises:
            AlertNotSent: with the reason; the notices are sent again later.
        """
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """The text of a message to people."""

    title: str
    text: str


def compose_message(notices: Sequence[Notice]) -> Message:
    """Write one message of one or several notices."""
    if len(notices) == 1:
        return Message(_title(notices[0]), _text(notices[0]))
    parts = [f"{_title(notice)}\n{_text(notice)}" for notice in notices]
    return Message(f"{len(notices)} alerts", "\n\n".join(parts))


def deliver_notices(
    store: Store, channel: Channel, *, messages_per_hour: int = MESSAGES_PER_HOUR
) -> tuple[Notice, ...]:
    """Send the notices that wait for a channel; returns those that were sent."""
    notices = claim_notices(
        store, channel.name, seconds=CLAIM_S, messages_per_hour=messages_per_hour
    )
    groups = [notices] if channel.takes_batches and notices else [(notice,) for notice in notices]
    sent: list[Notice] = []
    for group in groups:
        try:
            channel.send(group)
        except AlertNotSent as error:
            log.warning("channel=%s %d notices wait: %s", channel.name, len(group), error)
            note_failed(store, channel.name, group, str(error))
        else:
            note_sent(store, channel.name, group)
            sent += group
    return tuple(sent)


class AlertSender:
    """Delivers the notices of a store to channels, from `start` to `stop`.

    Args:
        messages_per_hour: Most messages to a channel in an hour; further notices wait.
        poll_s: Seconds between two polls of the store.
    """

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
        """Add a channel, unless there is one of the same name already."""
        if channel.name in self._threads:
            return
        thread = threading.Thread(
            target=self._run, args=(channel,), name=f"alerts {channel.name}", daemon=True
        )
        self._threads[channel.name] = thread
        if self._started:
            thread.start()

    def start(self) -> None:
        """Start the threads; notices that wait in the store are sent first."""
        self._started = True
        for thread in self._threads.values():
            thread.start()

    def stop(self, *, wait_s: float = 5.0) -> None:
        """End after the messages under way; the claim of a hanging channel runs out by itself."""
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
                # This may be the only channel that people read, so its thread must go on.
                log.exception("channel=%s a delivery failed", channel.name)
            self._stop.wait(self.poll_s)


_PREFIX = {Occasion.RAISED: "", Occasion.REMINDER: "Still: ", Occasion.RECOVERED: "Recovered: "}


def _title(notice: Notice) -> str:
    alert, recovered = notice.alert, notice.occasion is Occasion.RECOVERED
    severity = "" if recovered else f"[{alert.severity.upper()}] "
    return f"{severity}{_PREFIX[notice.occasion]}{alert.title}"


def _text(notice: Notice) -> str:
    alert = notice.alert
    lines = [
        notice.text,
        f"service {alert.service}: {alert.condition}, {alert.subject}",
        f"since {alert.raised_at:%Y-%m-%d %H:%M} UTC, seen {alert.times_seen} times",
    ]
    return "\n".join(lines)
