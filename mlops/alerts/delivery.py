"""Delivers notices of alerts to channels, each channel in a thread of its own.

    notices wait in the store -> claimed for a channel -> sent -> noted as sent, or to be retried

A notice stays in the store until a channel has sent it, so none is lost while a channel or this
process is down, and a channel that hangs delays no other one. Delivery is at least once: a notice
that was sent just before its process died, and not noted, is sent again.

A message that the server refuses for what it holds is sent shorter, then in halves. The notice that
is refused by itself is retried alone, so that it holds up no other one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from mlops.background import STOP_S, Repeated
from mlops.errors import AlertNotSent, AlertRefused
from mlops.store import Store
from mlops.store.alerts import Notice, claim_notices, note_failed, note_refused, note_sent

log = logging.getLogger(__name__)

CLAIM_S = 60.0
"""How long a claim of notices lasts when its process dies; no channel may take longer to send."""

HALVING_S = 20.0
"""A refused message is halved for at most so long; what is left is sent later."""

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

    def send(self, notices: Sequence[Notice], *, brief: bool = False) -> None:
        """Send the notices within seconds, in a short message where ``brief`` asks for it.

        Raises:
            AlertRefused: when the server refuses the message for its length or its text.
            AlertNotSent: with any other reason; the notices are sent again later.
        """
        ...


def deliver(
    store: Store, channel: Channel, *, messages_per_hour: int = MESSAGES_PER_HOUR
) -> tuple[Notice, ...]:
    """Send the notices that wait for a channel; returns those that were sent."""
    notices = claim_notices(
        store, channel.name, seconds=CLAIM_S, messages_per_hour=messages_per_hour
    )
    groups = [notices] if channel.takes_batches and notices else [(notice,) for notice in notices]
    halve_until = time.monotonic() + HALVING_S
    return tuple(
        sent for group in groups for sent in _send_group(store, channel, group, halve_until)
    )


def _send_group(
    store: Store,
    channel: Channel,
    notices: Sequence[Notice],
    halve_until: float,
    *,
    brief: bool = False,
) -> Sequence[Notice]:
    """Send notices in one message, or in several where it is refused; returns those sent."""
    try:
        channel.send(notices, brief=brief)
    except AlertRefused as error:
        if not brief:
            return _send_group(store, channel, notices, halve_until, brief=True)
        if len(notices) > 1 and time.monotonic() < halve_until:
            middle = len(notices) // 2
            return [
                sent
                for half in (notices[:middle], notices[middle:])
                for sent in _send_group(store, channel, half, halve_until, brief=True)
            ]
        note = note_refused if len(notices) == 1 else note_failed
        _note_unsent(note, store, channel, notices, error)
    except AlertNotSent as error:
        _note_unsent(note_failed, store, channel, notices, error)
    except Exception as error:
        # A defect of the channel must not keep its notices claimed, and the next ones waiting.
        log.exception("channel=%s failed", channel.name)
        _note_unsent(note_failed, store, channel, notices, error)
    else:
        note_sent(store, channel.name, notices)
        return notices
    return ()


def _note_unsent(
    note: Callable[[Store, str, Sequence[Notice], str], None],
    store: Store,
    channel: Channel,
    notices: Sequence[Notice],
    error: Exception,
) -> None:
    log.warning("channel=%s %d notices wait: %s", channel.name, len(notices), error)
    note(store, channel.name, notices, str(error))


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
        self._loops: dict[str, Repeated] = {}
        for channel in channels:
            self.add_channel(channel)

    def add_channel(self, channel: Channel) -> None:
        """Add a channel, unless there is one of the same name already."""
        if channel.name in self._loops:
            return
        work = partial(deliver, self.store, channel, messages_per_hour=self.messages_per_hour)
        loop = self._loops[channel.name] = Repeated(f"alerts {channel.name}", self.poll_s, work)
        if self._started:
            loop.start()

    def start(self) -> None:
        """Start the threads; notices that wait in the store are sent first."""
        self._started = True
        for loop in self._loops.values():
            loop.start()

    def stop(self, *, wait_s: float = STOP_S) -> None:
        """End after the messages under way; the claim of a hanging channel runs out by itself."""
        for loop in self._loops.values():
            loop.stop(wait_s=wait_s)
