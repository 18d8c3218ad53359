"""The text of a message to people, within the length that its channel takes.

    one notice          its title and its text
    a few notices       each with its title and its text
    more than fit       titles where texts do not fit any more, and then the number of the others

Critical alerts come first. Whatever is cut out of a message is in the store; `manager.alerts()`
lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlops.store.alerts import Notice, Occasion, Severity

BRIEF = 1_900
"""Characters that every server known to us takes: Discord refuses more than 2,000."""

_LONGEST_TITLE = 250
_CUT = " … (cut)"
_PREFIX = {Occasion.RAISED: "", Occasion.REMINDER: "Still: ", Occasion.RECOVERED: "Recovered: "}


@dataclass(frozen=True, slots=True)
class Message:
    """The text of a message to people; the title is one line."""

    title: str
    text: str


def compose_message(
    notices: Sequence[Notice], *, longest: int, escape: Callable[[str], str] = str
) -> Message:
    """Write one message of one or several notices.

    Args:
        notices: What people are told.
        longest: Most characters of title and text together, once they are escaped.
        escape: Replaces the characters that the channel would take for commands.
    """
    if len(notices) == 1:
        title = _cut(escape(_title(notices[0])), _LONGEST_TITLE)
        return Message(title, _cut(escape(_text(notices[0])), longest - len(title)))
    title = f"{len(notices)} alerts"
    by_urgency = sorted(notices, key=lambda notice: notice.alert.severity is not Severity.CRITICAL)
    return Message(title, _join_parts(by_urgency, longest - len(title), escape))


def _join_parts(notices: Sequence[Notice], room: int, escape: Callable[[str], str]) -> str:
    """Titles and texts while they fit, then titles alone, then how many notices are left out."""
    titles = [_cut(escape(_title(notice)), _LONGEST_TITLE) for notice in notices]
    whole = [
        f"{title}\n{escape(_text(notice))}" for title, notice in zip(titles, notices, strict=True)
    ]
    if sum(len(part) + 2 for part in whole) <= room:
        return "\n\n".join(whole)
    parts: list[str] = []
    # The titles get a third of the room at least; the line that counts the others gets 80.
    for candidates, end in ((whole, room * 2 // 3), (titles, room - 80)):
        used = sum(len(part) + 2 for part in parts)
        for part in candidates[len(parts) :]:
            used += len(part) + 2
            if used > end:
                break
            parts.append(part)
    left_out = len(notices) - len(parts)
    rest = [f"… and {left_out} more; manager.alerts() lists them"] if left_out else []
    return "\n\n".join([*parts, *rest])


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: max(0, longest - len(_CUT))] + _CUT


def _title(notice: Notice) -> str:
    alert, recovered = notice.alert, notice.occasion is Occasion.RECOVERED
    severity = "" if recovered else f"[{alert.severity.upper()}] "
    # A line break in the subject of a mail would begin another header.
    return " ".join(f"{severity}{_PREFIX[notice.occasion]}{_make_sendable(alert.title)}".split())


def _text(notice: Notice) -> str:
    alert = notice.alert
    lines = [
        notice.text,
        f"service {alert.service}: {alert.condition}, {alert.subject}",
        f"since {alert.raised_at:%Y-%m-%d %H:%M} UTC, seen {alert.times_seen} times",
    ]
    return _make_sendable("\n".join(lines))


def _make_sendable(text: str) -> str:
    """Replace what no encoding can carry, such as a surrogate without its other half."""
    return text.encode("utf-8", "replace").decode("utf-8")
