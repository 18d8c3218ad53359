"""Pages of other sites, other hosts and proxies are refused; a plain client is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops.api.app import build_api
from mlops.api.browsers import DoorRules, name_of
from mlops.api.context import ApiContext
from mlops.errors import SettingsError
from mlops.manager import MLOpsManager
from mlops.settings import load_settings
from tests.mlops.api.conftest import Client

HOST = "127.0.0.1:8005"


def refuse(
    method: str = "POST", *, client: Any = ("127.0.0.1", 1), http: str = "1.1", **headers: str
) -> str | None:
    """The reason why a request with these headers is not let in."""
    sent = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "method": method,
        "client": client,
        "http_version": http,
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    return DoorRules(("desk.example.org",)).refuse(scope)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost"},
        {"host": "LOCALHOST:8005"},
        {"host": "[::1]:8005"},
        {"host": "desk.example.org"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"origin": f"http://{HOST}"},
    ],
)
def test_a_client_of_this_machine_is_let_in(headers: dict[str, str]) -> None:
    assert refuse(**headers) is None


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"sec_fetch_site": "cross-site"}, "another site"),
        ({"sec_fetch_site": "same-site"}, "another site"),
        ({"sec_fetch_site": "cross-site", "origin": f"http://{HOST}"}, "another site"),
        ({"origin": "https://evil.example.org"}, "another site"),
        ({"origin": "null"}, "another site"),
        ({"origin": "http://["}, "another site"),
        ({"host": "evil.example.org"}, "Host header"),
        ({"host": "127.0.0.1.evil.example.org"}, "Host header"),
        ({"host": "127.0.0.1@evil.example.org"}, "Host header"),
        ({"host": ""}, "Host header"),
        ({"x_forwarded_for": "10.0.0.1"}, "proxy"),
        ({"forwarded": "for=10.0.0.1"}, "proxy"),
        ({"via": "1.1 proxy"}, "proxy"),
        ({"http": "1.0"}, "HTTP before 1.1"),
    ],
)
def test_others_are_refused(headers: dict[str, Any], words: str) -> None:
    assert words in str(refuse(**headers))


def test_a_request_of_another_machine_is_refused() -> None:
    assert "other machines" in str(refuse(client=("10.0.0.1", 1)))
    assert refuse(client=("::ffff:127.0.0.1", 1)) is None


def test_a_page_of_another_site_may_read_nothing_but_is_answered() -> None:
    """A browser hides the answer to a read from the page that asked."""
    assert refuse("GET", sec_fetch_site="cross-site") is None
    assert "Host header" in str(refuse("GET", host="evil.example.org"))


def test_a_malformed_host_has_no_name() -> None:
    assert [name_of(host) for host in ("[::1", "a b", "a/b", "a,b")] == [None] * 4


def test_the_api_answers_a_refused_request_with_a_problem(client: Client) -> None:
    answer = client.post("models/deploy", json={}, headers={"origin": "https://evil.example.org"})
    assert answer.status_code == 403
    assert answer.json()["type"] == "/mlops/problems/forbidden"
    assert client.get("models/x", headers={"host": "evil.example.org"}).status_code == 403


def test_api_allowed_hosts_lets_names_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_ALLOWED_HOSTS", "Desk, lab.example.org")
    client = Client(build_api(ApiContext(MLOpsManager(load_settings()))))
    for host, status in (("desk:8005", 200), ("lab.example.org", 200), ("example.org", 403)):
        assert client.get("rollouts", headers={"host": host}).status_code == status
    client.close()
    monkeypatch.setenv("API_ALLOWED_HOSTS", "http://desk")
    with pytest.raises(SettingsError, match="'http://desk' is no name of a host"):
        load_settings()
