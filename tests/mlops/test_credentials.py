"""No user and no password of a URL is shown by an error, a line, a link or the settings."""

from __future__ import annotations

import base64
import logging
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops.credentials import split_login, without_credentials
from mlops.errors import MlopsError, RegistryError, SettingsError, SourceError
from mlops.logs import JsonFormatter, MessageFormatter, TextFormatter
from mlops.registry import connect
from mlops.registry.tracking import Location, point_mlflow_to, resolve_tracking_uri
from mlops.settings import Settings, load_settings
from tests.conftest import mlflow_forgets

PASSWORD = "s3cr/et@x"
ENCODED = "s3cr%2Fet%40x"
BASIC = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cr/et@x@mlflow:5000/a", "http://***@mlflow:5000/a"),
        ("postgresql+psycopg://ann:s3cret@db/mlops", "postgresql+psycopg://***@db/mlops"),
        ("https://s3cret@mlflow", "https://***@mlflow"),
        ("ann@firm:postgresql://ann@firm:s3cret@db", "ann@firm:postgresql://***@db"),
        ("mailto://ann:s3cret@mail?to=a", "mailto://***@mail?to=a"),
        (
            "postgresql://db/x?sslmode=on&password=s3cret",
            "postgresql://db/x?sslmode=on&password=***",
        ),
        ("GET https://h/a?access_token=s3cret failed", "GET https://h/a?access_token=*** failed"),
        ("a (http://ann:s3cret@h/x), b", "a (http://***@h/x), b"),
    ],
)
def test_credentials_are_taken_out_of_any_text(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/ann@firm/store.db",
        "file:///home/ann@firm/mlruns",
        "http://mlflow:5000/#/experiments/1/runs/2",
        "https://mlflow/models/service@champion",
        "models:/service@champion",
        "ann@firm.example",
        "postgresql://<user>:<password>@<host>/<database>",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert without_credentials(text) == text
    assert split_login(text) == (text, None) or "<user>" in text


def test_an_error_of_ours_shows_no_credential_however_it_is_shown() -> None:
    error = SourceError("http://ann:s3cret@exchange refused")
    assert isinstance(error, MlopsError)
    assert str(error) == "http://***@exchange refused"
    assert "s3cret" not in repr(error)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter(), MessageFormatter()])
def test_a_line_and_its_traceback_show_no_credential(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("no answer from http://ann:s3cret@mlflow")
    except ValueError as error:
        told = ("at %s", ("http://ann:s3cret@mlflow",), (ValueError, error, error.__traceback__))
    record = logging.LogRecord("mlops.somewhere", logging.ERROR, __file__, 1, *told)
    line = formatter.format(record)
    assert "s3cret" not in line
    assert line.count("http://***@mlflow") >= 2


def test_settings_show_no_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = "http://ann:s3cret@host"
    monkeypatch.chdir(tmp_path)
    urls = ("mlflow_tracking_uri", "store_url", "exchange_base_url", "slack_webhook_url")
    secret = dict.fromkeys((*urls, "smtp_password"), url)
    settings = Settings(_env_file=None, **secret, alert_urls=f"{url} {url}")
    assert "s3cret" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert (settings.tracking_uri, settings.exchange_url) == (url, url)


def test_a_refused_setting_is_not_shown_where_it_is_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Settings, "model_config", {**Settings.model_config, "env_file": None})
    monkeypatch.setenv("API_HOST", "http://ann:s3cret@host")
    with pytest.raises(SettingsError, match=r"API_HOST='http://\*\*\*@host'") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


class _Recorder(BaseHTTPRequestHandler):
    """Refuses every request, and keeps its credentials."""

    seen: list[str | None]

    def refuse(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = refuse  # noqa: N815 - the library's names

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def refusing_server() -> Iterator[SimpleNamespace]:
    """A server of a name and a password; ``seen`` are the credentials that it got."""
    handler = type("Handler", (_Recorder,), {"seen": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://ann:{ENCODED}@127.0.0.1:{server.server_port}"
        yield SimpleNamespace(url=url, seen=handler.seen)
        server.shutdown()
        thread.join()


def test_mlflow_gets_the_credentials_and_shows_them_nowhere(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with mlflow_forgets(), refusing_server() as server:
        with pytest.raises(RegistryError, match="check MLFLOW_TRACKING_URI") as refused:
            connect(server.url, "test")
        shown = "".join(traceback.format_exception(refused.value))
    assert set(server.seen) == {BASIC}
    written = capfd.readouterr()
    for text in (shown, written.out, written.err):
        assert ENCODED not in text
        assert PASSWORD not in text


def test_the_credentials_of_one_mlflow_do_not_go_to_another() -> None:
    first = resolve_tracking_uri(f"http://ann:{ENCODED}@one:5000")
    assert (first.uri, "ann" in repr(first)) == ("http://one:5000", False)
    with mlflow_forgets():
        point_mlflow_to(first)
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == PASSWORD
        # As the variable says that MLflow itself has set meanwhile.
        point_mlflow_to(Location("http://one:5000", None))
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == PASSWORD
        point_mlflow_to(Location("http://two:5000", None))
        assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_an_exchange_gets_the_credentials_and_its_errors_show_them_nowhere() -> None:
    import ccxt

    from mlops.data.sources.exchange import shared_client

    with refusing_server() as server:
        exchange = shared_client("binance", server.url).exchange
        with pytest.raises(ccxt.BaseError) as refused:
            exchange.fetch_time()
        exchange.session.close()
    assert set(server.seen) == {BASIC}
    assert ENCODED not in str(refused.value)
