"""The channels that alerts are sent to: e-mail, Slack, services of Apprise, Python handlers."""

from __future__ import annotations

import asyncio
import html
import importlib
import inspect
import logging
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from typing import Any

import httpx

from mlops.alerts.delivery import Channel
from mlops.alerts.messages import BRIEF, compose_message
from mlops.errors import AlertNotSent, AlertRefused, SettingsError
from mlops.settings import Settings
from mlops.store.alerts import Notice

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""Seconds after which a server that has not answered counts as not having the message."""

LONGEST_MAIL = 100_000
LONGEST_SLACK = 3_900
"""Most characters of a message; Slack cuts longer ones at 40,000 and shows 4,000 well."""

LONGEST_NAME = 200
"""Characters of a channel's name that the store keeps."""

_SLACK_TEXT = partial(html.escape, quote=False)
"""Slack reads the same three characters as markup; <!channel> would page everybody."""

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_REFUSED_TEXT = (400, 413, 422)
"""Answers to a message that is too long or malformed; others speak of the address or the server."""
_REFUSED_MAIL, _TOO_LARGE = 500, 552


@dataclass(frozen=True, slots=True)
class Email:
    """Plain-text mail by SMTP, over TLS wherever the server offers it.

    Attributes:
        to: One address, or several separated by commas.
        starttls: Send nothing to a server that does not offer STARTTLS.
        tls_first: The server speaks TLS from the first byte, as on port 465.
    """

    to: str
    sender: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    starttls: bool = False
    tls_first: bool = False
    takes_batches: bool = True

    @property
    def name(self) -> str:
        return f"email:{self.to}"

    def send(self, notices: Sequence[Notice], *, brief: bool = False) -> None:
        message = compose_message(notices, longest=BRIEF if brief else LONGEST_MAIL)
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.title, self.sender, self.to
        mail.set_content(message.text)
        try:
            with self._connect() as server:
                self._encrypt(server)
                if self.user:
                    server.login(self.user, self.password)
                refused = server.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            kind = AlertRefused if _is_refused_mail(error) else AlertNotSent
            raise kind(
                f"the mail server {self.host}:{self.port} did not take the message "
                f"({type(error).__name__}: {error}); {self._advise(error)}"
            ) from error
        if refused:
            log.warning("%s:%d takes no mail for %s", self.host, self.port, ", ".join(refused))

    def _connect(self) -> smtplib.SMTP:
        if not self.tls_first:
            return smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=context)

    def _encrypt(self, server: smtplib.SMTP) -> None:
        """Switch to TLS, checking the certificate where it matters; say why where not."""
        if self.tls_first:
            return
        server.ehlo_or_helo_if_needed()
        if server.has_extn("starttls") or self.starttls:
            context = ssl.create_default_context()
            if not (self.starttls or self.password):
                # Nothing was asked for and no secret is sent: any encryption is better than none.
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            server.starttls(context=context)
        elif self.password and self.host not in _THIS_MACHINE:
            raise smtplib.SMTPNotSupportedError(
                "it offers no encryption, and SMTP_PASSWORD is not sent in plain text"
            )
        else:
            log.info("mail to %s:%d is not encrypted: it offers no STARTTLS", self.host, self.port)

    def _advise(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return "SSL_CERT_FILE names the certificate of an authority of your own"
        tls = (
            "a server that does not speak TLS from the first byte needs SMTP_SSL=false"
            if self.tls_first
            else "a server that speaks TLS from the first byte, as on port 465, needs SMTP_SSL=true"
        )
        return f"see SMTP_HOST, SMTP_PORT and SMTP_STARTTLS; {tls}"


@dataclass(frozen=True, slots=True)
class Slack:
    """A webhook of Slack, or of a server that takes the same message.

    Raises:
        SettingsError: when the address is not one of a web server.
    """

    url: str = field(repr=False)
    takes_batches: bool = True

    def __post_init__(self) -> None:
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise SettingsError(
                "SLACK_WEBHOOK_URL is no address of a web server (it is not repeated here, because "
                "it is a secret); write it like https://hooks.slack.com/services/T…/B…/…"
            )

    @property
    def name(self) -> str:
        return "slack"

    def send(self, notices: Sequence[Notice], *, brief: bool = False) -> None:
        longest = BRIEF if brief else LONGEST_SLACK
        message = compose_message(notices, longest=longest, escape=_SLACK_TEXT)
        text = f"*{message.title}*\n{message.text}"
        try:
            answer = httpx.post(self.url, json={"text": text}, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            # The address is a secret and httpx repeats it in the error, so only the kind is told.
            kind = type(error).__name__
            raise AlertNotSent(f"the Slack webhook was not reached ({kind})") from None
        if answer.status_code in _REFUSED_TEXT:
            raise AlertRefused(
                f"the Slack webhook refuses a message of {len(text):,} characters "
                f"({answer.status_code})"
            )
        if not answer.is_success:
            raise AlertNotSent(f"the Slack webhook answered {answer.status_code}")


@dataclass(frozen=True, slots=True)
class AppriseChannel:
    """A service that Apprise has a URL for.

    Attributes:
        number: Its place in ALERT_URLS, from 1; the URL itself is a secret.
        longest: Most characters of a message.
    """

    number: int
    service: Any = field(repr=False)
    longest: int
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
        return cls(number, service, min(plugin.body_maxlen for plugin in service))

    @property
    def name(self) -> str:
        return f"apprise:{self.number}"

    def send(self, notices: Sequence[Notice], *, brief: bool = False) -> None:
        message = compose_message(notices, longest=min(self.longest, BRIEF if brief else 32_768))
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

    def send(self, notices: Sequence[Notice], *, brief: bool = False) -> None:
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


def channels_of(settings: Settings) -> tuple[Channel, ...]:
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
                tls_first=settings.speaks_smtps,
            )
        )
    webhook = settings.slack_webhook_url.get_secret_value()
    if webhook:
        channels.append(Slack(webhook))
    for number, url in enumerate(settings.alert_urls, start=1):
        channels.append(AppriseChannel.of(url.get_secret_value(), number))
    channels += [Handler(_make_handler(path)) for path in settings.alert_handlers]
    for channel in channels:
        if len(channel.name) > LONGEST_NAME:
            raise SettingsError(
                f"{channel.name[:40]}… is {len(channel.name)} characters long, and a channel's "
                f"name has {LONGEST_NAME} at most; with many addresses, use a mailing list"
            )
    return tuple(channels)


def _is_refused_mail(error: Exception) -> bool:
    """Whether the server refused the message itself, not its sender, recipients or connection."""
    if isinstance(error, smtplib.SMTPDataError):
        return error.smtp_code >= _REFUSED_MAIL
    return isinstance(error, smtplib.SMTPSenderRefused) and error.smtp_code == _TOO_LARGE


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
