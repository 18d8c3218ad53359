"""Alerts reach people through real servers: once, again after an outage, and past what hangs."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mlops.alerts import channels
from mlops.alerts.channels import (
    AppriseChannel,
    Email,
    Handler,
    Slack,
    channels_of,
)
from mlops.alerts.delivery import AlertSender, deliver
from mlops.errors import AlertNotSent, SettingsError
from mlops.settings import Settings
from mlops.store.alerts import (
    Condition,
    DeliveryState,
    Notice,
    Occasion,
    Trouble,
    list_alerts,
    list_deliveries,
    raise_alert,
    recover_alert,
)
from tests.mlops.monitoring.conftest import NOW, SERVICE

SOON_S = 5.0
knows_apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
TROUBLE = Trouble(Condition.DATA_DRIFT, SERVICE, "lstm_A", "Volume has drifted", "p 0.0002")


class Inbox:
    """A real SMTP server's mail."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        return "250 taken"


class QuietController(Controller):
    """A controller that does not try its own server in plain text, which TLS would refuse."""

    def _trigger_server(self) -> None:
        with socket.create_connection((self.hostname, self.port), timeout=SOON_S):
            pass


@contextmanager
def mail_server(port: int, inbox: Inbox | None = None, **options: Any) -> Iterator[Inbox]:
    inbox = Inbox() if inbox is None else inbox
    controller = QuietController(inbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield inbox
    finally:
        controller.stop()


class FullInbox(Inbox):
    """The mail of a server that takes small messages only, and none for one recipient."""

    def __init__(self, *, most: int, unknown: str = "") -> None:
        super().__init__()
        self.most, self.unknown = most, unknown

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:  # noqa: N802
        if address == self.unknown:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 known"

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802
        if len(envelope.content) > self.most:
            return "552 too large"
        return await super().handle_DATA(server, session, envelope)


class Webhook:
    """A real HTTP server that takes JSON, or answers 503 while it is ``down``.

    ``refuse``: whether a text gets the answer ``status``, and is not taken.
    """

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.down = False
        self.refuse: Callable[[str], bool] = lambda text: False
        self.status = 400

    def take(self, message: dict[str, Any]) -> int:
        if self.down:
            return 503
        if self.refuse(message.get("text", "")):
            return self.status
        self.got.append(message)
        return 200


@pytest.fixture
def webhook() -> Iterator[tuple[Webhook, str]]:
    state = Webhook()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(state.take(json.loads(body)))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and says nothing, until it is gone."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def mail_to(port: int) -> Email:
    return Email(to="desk@example.com", sender="mlops@example.com", host="127.0.0.1", port=port)


def see(store, trouble: Trouble = TROUBLE) -> None:
    with store.write() as connection:
        raise_alert(connection, trouble, at=NOW)


def over(store) -> None:
    with store.write() as connection:
        recover_alert(
            connection,
            condition=TROUBLE.condition,
            service=SERVICE,
            subject="lstm_A",
            at=NOW,
            text="gone",
        )


def until(condition) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def test_mail_arrives_once_and_again_when_it_is_over(store):
    port = free_port()
    with mail_server(port) as inbox:
        channel = mail_to(port)
        for _ in range(3):
            see(store)
            deliver(store, channel)
        over(store)
        deliver(store, channel)
    assert [mail["subject"] for mail in inbox.mails] == [
        "[WARNING] Volume has drifted", "Recovered: Volume has drifted",
    ]  # fmt: skip
    assert inbox.mails[0]["to"] == "desk@example.com"
    assert "p 0.0002" in inbox.mails[0].get_content()


def test_mail_that_a_dead_server_did_not_take_is_told_when_it_is_back(store):
    port = free_port()
    channel = mail_to(port)
    see(store)
    assert deliver(store, channel) == ()
    with mail_server(port) as inbox:
        over(store)
        assert len(deliver(store, channel)) == 2
    [mail] = inbox.mails
    assert mail["subject"] == "2 alerts"
    assert mail.get_content().count("Volume has drifted") == 2


def test_slack_gets_text_and_is_told_again_after_an_outage(store, webhook):
    state, url = webhook
    state.down = True
    see(store)
    assert deliver(store, Slack(url)) == ()
    state.down = False
    over(store)
    deliver(store, Slack(url))
    [message] = state.got
    assert message["text"].startswith("*2 alerts*")


def test_the_error_of_a_channel_does_not_show_its_secret_address():
    secret = f"http://127.0.0.1:{free_port()}/T0/B0/secret"
    with pytest.raises(AlertNotSent, match="ConnectError") as caught:
        Slack(secret).send(())
    assert "secret" not in str(caught.value) + repr(Slack(secret))


def see_many(store, count: int, text: str = "p 0.0002") -> None:
    for number in range(count):
        see(store, Trouble(TROUBLE.condition, SERVICE, f"lstm_{number}", f"Drift {number}", text))


def test_a_refused_alert_holds_up_no_other(store, webhook):
    state, url = webhook
    state.refuse = lambda text: "lstm_7" in text
    see_many(store, 12)
    assert len(deliver(store, Slack(url))) == 11
    see(store)
    [told] = deliver(store, Slack(url))
    assert told.alert.subject == "lstm_A"
    [row] = [row for row in list_alerts(store) if row.subject == "lstm_7"]
    [delivery] = list_deliveries(store, row.id)
    assert delivery.state is DeliveryState.REFUSED
    assert "(400)" in delivery.error


@pytest.mark.parametrize("most", [2_000, 16_383])
def test_messages_are_as_short_as_the_server_wants_them(store, webhook, most):
    state, url = webhook
    state.refuse = lambda text: len(text) > most
    see(store, Trouble(TROUBLE.condition, SERVICE, "long", "Long", "x" * 50_000))
    assert len(deliver(store, Slack(url))) == 1
    see_many(store, 300)
    assert len(deliver(store, Slack(url))) == 300
    assert len(state.got) == 2
    assert "more; manager.alerts() lists them" in state.got[1]["text"]


@pytest.mark.parametrize("status", [403, 404, 410, 429, 500])
def test_an_address_or_server_that_fails_refuses_no_alert(store, webhook, status):
    state, url = webhook
    state.refuse, state.status = (lambda text: True), status
    see_many(store, 2)
    assert deliver(store, Slack(url)) == ()
    state.refuse = lambda text: False
    see(store)
    assert len(deliver(store, Slack(url))) == 3
    assert len(state.got) == 1


def test_markup_in_an_alert_reaches_slack_as_text(store, webhook):
    state, url = webhook
    see(store, Trouble(TROUBLE.condition, SERVICE, "lstm_A", "A & B", "<!channel> said <b>"))
    deliver(store, Slack(url))
    assert "A &amp; B" in state.got[0]["text"]
    assert "&lt;!channel&gt; said &lt;b&gt;" in state.got[0]["text"]


def test_text_that_no_server_can_carry_is_sent_without_it(store, webhook):
    state, url = webhook
    port = free_port()
    see(store, Trouble(TROUBLE.condition, SERVICE, "lstm_A", "Two\nlines", "gr\u00fc\u00dfe"))
    [row] = list_alerts(store)
    odd = replace(row, title="Two\nlines \ud800", text="\ud800")
    notice = Notice(1, Occasion.RAISED, NOW, "half \ud800", 1, 0.0, odd)
    with mail_server(port) as inbox:
        mail_to(port).send([notice])
        Slack(url).send([notice])
    assert inbox.mails[0]["subject"] == "[WARNING] Two lines ?"
    assert "half ?" in state.got[0]["text"]


class Broken:
    name, takes_batches = "broken", True

    def send(self, notices, *, brief=False) -> None:
        raise ZeroDivisionError("a defect")


def test_a_channel_with_a_defect_tries_again_later(store):
    see(store)
    assert deliver(store, Broken()) == ()
    [row] = list_alerts(store)
    [delivery] = list_deliveries(store, row.id)
    assert (delivery.state, delivery.error) == (DeliveryState.WAITING, "a defect")


def test_a_mail_that_is_too_large_is_sent_shorter(store):
    port = free_port()
    see_many(store, 40, text="x" * 500)
    with mail_server(port, FullInbox(most=3_000)) as inbox:
        assert len(deliver(store, mail_to(port))) == 40
    [mail] = inbox.mails
    assert mail["subject"] == "40 alerts"


def test_mail_goes_to_the_addresses_that_exist(store, caplog):
    port = free_port()
    to = "gone@example.com, desk@example.com"
    channel = Email(to=to, sender="mlops@example.com", host="127.0.0.1", port=port)
    see(store)
    with mail_server(port, FullInbox(most=9_000, unknown="gone@example.com")) as inbox:
        assert len(deliver(store, channel)) == 1
    assert len(inbox.mails) == 1
    assert "takes no mail for gone@example.com" in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A file with the key of localhost and a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = Path(tmp_path_factory.mktemp("tls")) / "localhost.pem"
    encoding, private = Encoding.PEM, PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(encoding, private, NoEncryption()) + made.public_bytes(encoding)
    )
    return path


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_mail_goes_to_a_server_that_speaks_tls_from_the_first_byte(store, certificate, monkeypatch):
    port = free_port()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    see(store)
    with mail_server(port, ssl_context=tls_of(certificate)) as inbox:
        channel = replace(mail_to(port), host="localhost", tls_first=True)
        assert len(deliver(store, channel)) == 1
    assert len(inbox.mails) == 1


def test_a_certificate_that_cannot_be_checked_gets_no_password(store, certificate):
    port = free_port()
    with mail_server(port, tls_context=tls_of(certificate)) as inbox:
        secret = replace(mail_to(port), host="localhost", user="me", password="secret")
        with pytest.raises(AlertNotSent, match="SSL_CERT_FILE"):
            secret.send(())
        replace(mail_to(port), host="localhost").send(())
    assert len(inbox.mails) == 1


def test_a_password_is_not_sent_in_plain_text_over_a_network(store, monkeypatch):
    port = free_port()
    monkeypatch.setattr(channels, "_THIS_MACHINE", ())
    with mail_server(port) as inbox:
        secret = replace(mail_to(port), user="me", password="secret")
        with pytest.raises(AlertNotSent, match="SMTP_PASSWORD is not sent in plain text"):
            secret.send(())
    assert inbox.mails == []


@pytest.mark.parametrize(
    ("tls_first", "advice"), [(False, "SMTP_SSL=true"), (True, "SMTP_SSL=false")]
)
def test_a_server_that_speaks_the_other_way_is_explained(
    store, certificate, monkeypatch, tls_first, advice
):
    monkeypatch.setattr(channels, "TIMEOUT_S", 0.3)
    port = free_port()
    options = {} if tls_first else {"ssl_context": tls_of(certificate)}
    with (
        mail_server(port, **options),
        pytest.raises(AlertNotSent, match=advice),
    ):
        replace(mail_to(port), host="localhost", tls_first=tls_first).send(())


@pytest.mark.parametrize(
    "url",
    [
        "hooks.slack.com/services/T/B/C",
        "https://hooks.slack.com:abc/T",
        "ftp://host/T",
        "https://:8080/T",
    ],
)
def test_a_webhook_that_is_no_address_is_refused_at_the_start(url):
    with pytest.raises(SettingsError, match="SLACK_WEBHOOK_URL is no address") as caught:
        channels_of(Settings(_env_file=None, slack_webhook_url=url))
    assert url not in str(caught.value)


def test_more_addresses_than_a_name_can_hold_are_refused_at_the_start():
    many = ",".join(f"person{number}@example.com" for number in range(12))
    with pytest.raises(SettingsError, match="use a mailing list"):
        channels_of(Settings(_env_file=None, alert_email=many))


@knows_apprise
def test_apprise_messages_are_as_long_as_the_service_takes():
    assert AppriseChannel.of("discord://id/token", 1).longest == 2_000


@knows_apprise
def test_apprise_takes_any_of_its_urls(store, webhook):
    state, url = webhook
    see(store)
    deliver(store, AppriseChannel.of(url.replace("http", "json"), 1))
    assert state.got[0]["title"] == "[WARNING] Volume has drifted"


@knows_apprise
def test_a_url_that_apprise_does_not_know_is_refused_at_once():
    with pytest.raises(SettingsError, match="entry 2"):
        AppriseChannel.of("nowhere://x", 2)


class Notes:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def send_alert(self, alert_data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.seen.append(alert_data)


class Picky:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def send_alert(self, alert_data: dict[str, Any]) -> None:
        if alert_data["subject"] == "lstm_B" and "lstm_B" not in self.seen:
            self.seen.append("lstm_B")
            raise ValueError("not now")
        self.seen.append(alert_data["subject"])


def test_an_async_handler_gets_plain_values(store):
    handler = Notes()
    see(store)
    deliver(store, Handler(handler))
    [data] = handler.seen
    assert json.loads(json.dumps(data)) == data
    assert (data["condition"], data["occasion"]) == ("data_drift", "raised")


def test_a_handler_that_raises_on_one_alert_gets_the_others_once(store):
    handler = Picky()
    for subject in ("lstm_A", "lstm_B", "lstm_C"):
        see(store, Trouble(TROUBLE.condition, SERVICE, subject, "Drift", "moved"))
    deliver(store, Handler(handler))
    over(store)
    deliver(store, Handler(handler))
    assert handler.seen == ["lstm_A", "lstm_B", "lstm_C", "lstm_B", "lstm_A"]


def test_a_channel_that_hangs_does_not_delay_the_others(store, webhook):
    state, url = webhook
    port = free_port()
    with mail_server(port) as inbox, silent_server() as silent:
        lost = Email(to="lost@example.com", sender="a@b.c", host="127.0.0.1", port=silent)
        sender = AlertSender(store, [lost, Slack(url), mail_to(port)], poll_s=0.05)
        sender.start()
        see(store)
        [row] = list_alerts(store)

        def states() -> dict[str, DeliveryState]:
            return {one.channel: one.state for one in list_deliveries(store, row.id)}

        # The thread of the channel that hangs may begin last.
        until(lambda: inbox.mails and state.got and "email:lost@example.com" in states())
        assert states()["email:lost@example.com"] is DeliveryState.WAITING
        sender.stop(wait_s=0.1)
    # With its server the channel that hung comes back, before the store is closed.
    sender.stop()


def test_a_channel_added_later_tells_what_still_matters(store):
    handler = Notes()
    sender = AlertSender(store, poll_s=0.05)
    sender.start()
    see(store)
    sender.add_channel(Handler(handler))
    sender.add_channel(Handler(Notes()))
    until(lambda: handler.seen)
    sender.stop()
    assert len(handler.seen) == 1


@knows_apprise
def test_the_settings_name_the_channels():
    settings = Settings(
        _env_file=None,
        alert_email="desk@example.com",
        smtp_host="mail.example.com",
        smtp_port=587,
        smtp_starttls=True,
        slack_webhook_url="https://hooks.slack.com/services/T/B/C",
        alert_urls="json://localhost xml://localhost",
        alert_handlers=f"{Notes.__module__}:Notes",
    )
    assert [channel.name for channel in channels_of(settings)] == [
        "email:desk@example.com",
        "slack",
        "apprise:1",
        "apprise:2",
        f"handler:{Notes.__module__}.Notes",
    ]


def test_without_settings_there_is_no_channel():
    assert channels_of(Settings(_env_file=None)) == ()


@pytest.mark.parametrize("path", ["nowhere:Notes", "json:Nothing", "json", "json:dumps"])
def test_a_handler_that_cannot_be_made_is_named(path):
    with pytest.raises(SettingsError, match=path):
        channels_of(Settings(_env_file=None, alert_handlers=path))
