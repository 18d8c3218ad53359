"""Alerts reach people through real servers: once, again after an outage, and past what hangs."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from mlops.alerts.channels import (
    AppriseChannel,
    Email,
    Handler,
    Slack,
    open_channels,
)
from mlops.alerts.delivery import AlertSender, deliver_notices
from mlops.errors import AlertNotSent, SettingsError
from mlops.settings import Settings
from mlops.store.alerts import (
    Condition,
    DeliveryState,
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


@contextmanager
def mail_server(port: int) -> Iterator[Inbox]:
    inbox = Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield inbox
    finally:
        controller.stop()


class Webhook:
    """A real HTTP server that takes JSON, or answers 503 while it is ``down``."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.down = False


@pytest.fixture
def webhook() -> Iterator[tuple[Webhook, str]]:
    state = Webhook()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if not state.down:
                state.got.append(json.loads(body))
            self.send_response(503 if state.down else 200)
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
            deliver_notices(store, channel)
        over(store)
        deliver_notices(store, channel)
    assert [mail["subject"] for mail in inbox.mails] == [
        "[WARNING] Volume has drifted", "Recovered: Volume has drifted",
    ]  # fmt: skip
    assert inbox.mails[0]["to"] == "desk@example.com"
    assert "p 0.0002" in inbox.mails[0].get_content()


def test_mail_that_a_dead_server_did_not_take_is_told_when_it_is_back(store):
    port = free_port()
    channel = mail_to(port)
    see(store)
    assert deliver_notices(store, channel) == ()
    with mail_server(port) as inbox:
        over(store)
        assert len(deliver_notices(store, channel)) == 2
    [mail] = inbox.mails
    assert mail["subject"] == "2 alerts"
    assert mail.get_content().count("Volume has drifted") == 2


def test_slack_gets_text_and_is_told_again_after_an_outage(store, webhook):
    state, url = webhook
    state.down = True
    see(store)
    assert deliver_notices(store, Slack(url)) == ()
    state.down = False
    over(store)
    deliver_notices(store, Slack(url))
    [message] = state.got
    assert message["text"].startswith("*2 alerts*")


def test_the_error_of_a_channel_does_not_show_its_secret_address():
    secret = f"http://127.0.0.1:{free_port()}/T0/B0/secret"
    with pytest.raises(AlertNotSent, match="ConnectError") as caught:
        Slack(secret).send(())
    assert "secret" not in str(caught.value) + repr(Slack(secret))


@knows_apprise
def test_apprise_takes_any_of_its_urls(store, webhook):
    state, url = webhook
    see(store)
    deliver_notices(store, AppriseChannel.of(url.replace("http", "json"), 1))
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
    deliver_notices(store, Handler(handler))
    [data] = handler.seen
    assert json.loads(json.dumps(data)) == data
    assert (data["condition"], data["occasion"]) == ("data_drift", "raised")


def test_a_handler_that_raises_on_one_alert_gets_the_others_once(store):
    handler = Picky()
    for subject in ("lstm_A", "lstm_B", "lstm_C"):
        see(store, Trouble(TROUBLE.condition, SERVICE, subject, "Drift", "moved"))
    deliver_notices(store, Handler(handler))
    over(store)
    deliver_notices(store, Handler(handler))
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
    assert [channel.name for channel in open_channels(settings)] == [
        "email:desk@example.com",
        "slack",
        "apprise:1",
        "apprise:2",
        f"handler:{Notes.__module__}.Notes",
    ]


def test_without_settings_there_is_no_channel():
    assert open_channels(Settings(_env_file=None)) == ()


@pytest.mark.parametrize("path", ["nowhere:Notes", "json:Nothing", "json", "json:dumps"])
def test_a_handler_that_cannot_be_made_is_named(path):
    with pytest.raises(SettingsError, match=path):
        open_channels(Settings(_env_file=None, alert_handlers=path))
