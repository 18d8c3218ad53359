"""The channels that alerts are sent to: e-mail, Slack, services of Apprise, Python handlers."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import smtplib
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

import httpx

from mlops.alerts.delivery import Channel, compose_message
from mlops.errors import AlertNotSent, SettingsError
from mlops.settings import Settings
from mlops.store.alerts import Notice

TIMEOUT_S = 10.0
"""Seconds after which a server that has not answered counts as not having the message."""


@dataclass(frozen=True, slots=True)
class Email:
    """Plain-text mail by SMTP.

    With ``starttls``, a server that offers no encryption gets no mail.
    """

    to: str
    sender: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    starttls: bool = False
    takes_batches: bool = True

    @property
    def name(self) -> str:
        return f"email:{self.to}"

    def send(self, notices: Sequence[Notice]) -> None:
        message = compose_message(notices)
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.title, self.sender, self.to
        mail.set_content(message.text)
        try:
            with smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S) as server:
                if self.starttls:
                    server.starttls()
                if self.user:
                    server.login(self.user, self.password)
                server.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            raise AlertNotSent(
                f"the mail server {self.host}:{self.port} did not take the message "
                f"({type(error).__name__}: {error}); see SMTP_HOST, SMTP_PORT and SMTP_STARTTLS"
            ) from error


@dataclass(frozen=True, slots=True)
class Slack:
    """A webhook of Slack, or of a server that takes the same message."""

    url: str = field(repr=False)
    takes_batches: bool = True

    @property
    def name(self) -> str:
        return "slack"

    def send(self, notices: Sequence[Notice]) -> None:
        message = compose_message(notices)
        text = f"*{message.title}*\n{message.text}"
        try:
            answer = httpx.post(self.url, json={"text": text}, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            # The address is a secret and httpx repeats it in the error, so only the kind is told.
            kind = type(error).__name__
            raise AlertNotSent(f"the Slack webhook was not reached ({kind})") from None
        if not answer.is_success:
            raise AlertNotSent(f"the Slack webhook answered {answer.status_code}")


@dataclass(frozen=True, slots=True)
class AppriseChannel:
    """A service that Apprise has a URL for.

    Attributes:
        number: Its place in ALERT_URLS, from 1; the URL itself is a secret.
    """

    number: int
    service: Any = field(repr=False)
    takes_batches: bool = True

    @classmethod
    def of(cls, url: str, number: int) -> AppriseChannel:
        """Open the service of a URL.

        Raises:
            SettingsError: when Apprise does not know the URL.
        """
        import apprise

        service = apprise.Apprise()
        if not service.add(url):
            raise SettingsError(
                f"ALERT_URLS: entry {number} is no URL that Apprise knows; see "
                "https://github.com/caronc/apprise/wiki"
            )
        return cls(number, service)

    @property
    def name(self) -> str:
        return f"apprise:{self.number}"

    def send(self, notices: Sequence[Notice]) -> None:
        message = compose_message(notices)
        if not self.service.notify(title=message.title, body=message.text):
            raise AlertNotSent(f"entry {self.number} of ALERT_URLS did not take the message")


@dataclass(frozen=True, slots=True)
class Handler:
    """An object of the user with ``send_alert(alert_data)``, async or not, one alert at a time."""

    handler: Any
    takes_batches: bool = False

    def __post_init__(self) -> None:
        if not callable(getattr(self.handler, "send_alert", None)):
            kind = type(self.handler).__name__
            raise SettingsError(f"{kind} is no alert handler: it has no send_alert(alert_data)")

    @property
    def name(self) -> str:
        kind = type(self.handler)
        return f"handler:{kind.__module__}.{kind.__qualname__}"

    def send(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            try:
                result = self.handler.send_alert(alert_data(notice))
                if inspect.isawaitable(result):
                    asyncio.run(asyncio.wait_for(result, TIMEOUT_S))
            except Exception as error:
                kind = type(error).__name__
                raise AlertNotSent(f"{self.name} raised {kind}: {error}") from error


def alert_data(notice: Notice) -> dict[str, Any]:
    """The argument of ``send_alert``: plain values, ready for JSON."""
    alert = notice.alert
    return {
        "id": alert.id,
        "occasion": str(notice.occasion),
        "condition": str(alert.condition),
        "severity": str(alert.severity),
        "service": alert.service,
        "subject": alert.subject,
        "title": alert.title,
        "message": notice.text,
        "detail": dict(alert.detail),
        "raised_at": alert.raised_at.isoformat(),
        "at": notice.at.isoformat(),
        "times_seen": alert.times_seen,
    }


def open_channels(settings: Settings) -> tuple[Channel, ...]:
    """Open the channels that the settings name.

    Raises:
        SettingsError: when an address is not one, or a handler cannot be imported.
    """
    channels: list[Channel] = []
    if settings.alert_email:
        channels.append(
            Email(
                to=settings.alert_email,
                sender=settings.smtp_from or settings.alert_email,
                host=settings.smtp_host,
                port=settings.smtp_port,
                user=settings.smtp_user,
                password=settings.smtp_password.get_secret_value(),
                starttls=settings.smtp_starttls,
            )
        )
    webhook = settings.slack_webhook_url.get_secret_value()
    if webhook:
        channels.append(Slack(webhook))
    for number, url in enumerate(settings.alert_urls, start=1):
        channels.append(AppriseChannel.of(url.get_secret_value(), number))
    channels += [Handler(_make_handler(path)) for path in settings.alert_handlers]
    return tuple(channels)


def _make_handler(path: str) -> object:
    """Make an instance of the class at ``path``, written module:Class."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"ALERT_HANDLERS: {path!r} gives no handler ({type(error).__name__}: {error}); write "
            "module:Class of a class that is made without arguments and has send_alert(alert_data)"
        ) from error
