"""Every variable of serving reaches the part of a replica that it governs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments import replica
from mlops.alerts.channels import Email, Slack, channels_of
from mlops.errors import StoreError
from mlops.installation import open_installation
from mlops.monitoring.guard import Guard
from mlops.serving.runtime import MIB, Runtime
from mlops.serving.store_sync import Identity
from mlops.settings import Settings, current_settings

DAY_S = 86_400.0


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No setting of the developer's own."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@contextmanager
def opened() -> Iterator[Runtime]:
    installation = open_installation(current_settings())
    made = replica.open_runtime(installation, Identity.of("127.0.0.1:0", "r1"))
    try:
        yield made
    finally:
        made.store_sync.stop()
        made.request_log.close()
        made.store.close()


def test_a_name_that_the_store_cannot_keep_ends_the_start(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="id of replica has 101 characters, at most 100"):
        replica.main(["--name", "r" * 101])
    assert not (tmp_path / ".mlops").exists()


@pytest.mark.parametrize(
    ("name", "value", "part", "expected"),
    [
        ("SERVING_QUEUE_LIMIT", "7", lambda made: made.batcher.limit, 7),
        ("SERVING_MAX_BODY_MB", "0.5", lambda made: made.app.bodies.limit, MIB // 2),
        ("SERVING_TIME_BUDGET_S", "0.25", lambda made: made.dispatcher.budget_s, 0.25),
        ("SERVING_TIME_BUDGET_S", "0.25", lambda made: made.publisher.budget_s, 0.25),
        ("FORECAST_MAX_AGE_BARS", "3.5", lambda made: made.publisher.max_age_bars, 3.5),
        ("FORECAST_LOG_DAYS", "4", lambda made: made.request_log.segments.keep_s, 4 * DAY_S),
        ("REPLICA_REQUEST_LOG_MB", "9", lambda made: made.request_log.segments.max_bytes, 9 * MIB),
        ("REPLICA_SPOOL_MB", "2", lambda made: made.spool.max_bytes, 2 * MIB),
    ],
)
def test_a_part_gets_what_its_variable_says(
    environment: pytest.MonkeyPatch,
    name: str,
    value: str,
    part: Callable[[Runtime], Any],
    expected: float,
) -> None:
    with opened() as usual:
        assert part(usual) != expected
    environment.setenv(name, value)
    with opened() as changed:
        assert part(changed) == expected


@pytest.mark.parametrize(
    ("name", "value", "part", "expected"),
    [
        ("ALERT_ERROR_RATE", "0.2", lambda guard: guard.limits.error_rate, 0.2),
        ("ALERT_LATENCY_MS", "80", lambda guard: guard.limits.latency_ms, 80.0),
        ("SERVING_TIME_BUDGET_S", "3", lambda guard: guard.limits.latency_ms, 1500.0),
        ("FORECAST_MAX_AGE_BARS", "3.5", lambda guard: guard.limits.max_age_bars, 3.5),
        ("FORECAST_LOG_DAYS", "4", lambda guard: guard.keep_days, 4.0),
    ],
)
def test_trouble_begins_where_the_variables_say(
    environment: pytest.MonkeyPatch,
    name: str,
    value: str,
    part: Callable[[Guard], Any],
    expected: float,
) -> None:
    with opened() as usual:
        assert part(replica.open_guard(open_installation(current_settings()), usual)) != expected
    environment.setenv(name, value)
    with opened() as changed:
        assert part(replica.open_guard(open_installation(current_settings()), changed)) == expected


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_alerts_go_where_the_variables_say(environment: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ALERT_EMAIL": "desk@example.com",
        "SMTP_HOST": "mail.example.com",
        "SMTP_PORT": "587",
        "SMTP_USER": "mlops",
        "SMTP_PASSWORD": "secret",
        "SMTP_FROM": "mlops@example.com",
        "SMTP_STARTTLS": "true",
        "SMTP_SSL": "true",
        "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T/B/C",
        "ALERT_URLS": "json://localhost",
        "ALERT_HANDLERS": f"{__name__}:Pager",
        "ALERT_MESSAGES_PER_HOUR": "7",
    }.items():
        environment.setenv(name, value)
    mail, slack, other, handler = channels_of(current_settings())
    assert mail == Email(
        to="desk@example.com",
        sender="mlops@example.com",
        host="mail.example.com",
        port=587,
        user="mlops",
        password="secret",
        starttls=True,
        tls_first=True,
    )
    assert slack == Slack("https://hooks.slack.com/services/T/B/C")
    assert (other.name, handler.name) == ("apprise:1", f"handler:{__name__}.Pager")
    with closing(open_installation(current_settings())) as installation:
        assert installation.open_alert_sender().messages_per_hour == 7


class Pager:
    def send_alert(self, alert_data: dict[str, Any]) -> None:
        """Nobody is told in a test of settings."""


def test_address_and_log_are_as_configured_unless_the_command_says(
    environment: pytest.MonkeyPatch,
) -> None:
    served: list[tuple[str, int]] = []

    async def note(runtime: Runtime, *, app: Any, host: str, port: int, drain_s: float) -> None:
        served.append((host, port))

    looks: list[tuple[str, str]] = []
    environment.setattr(replica.logs, "configure", lambda *given: looks.append(given))
    environment.setattr(replica, "serve", note)
    replica.main([])
    environment.setenv("API_HOST", "0.0.0.0")
    environment.setenv("API_PORT", "8123")
    environment.setenv("LOG_FORMAT", "json")
    environment.setenv("LOG_LEVEL", "DEBUG")
    replica.main([])
    replica.main(["--host", "127.0.0.2", "--port", "8124"])
    assert served == [("127.0.0.1", 8005), ("0.0.0.0", 8123), ("127.0.0.2", 8124)]
    assert looks == [("text", "INFO"), ("json", "DEBUG"), ("json", "DEBUG")]
