"""The API is mounted in front of a replica's data plane, on loopback only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest

from deployments import api
from deployments.api_mount import make_context, mounted_api
from mlops.api.app import Dispatcher, build_api
from mlops.serving.app import App
from mlops.settings import Settings, current_settings
from tests.mlops.api.conftest import Client


class Plane:
    """A data plane that answers nothing."""

    draining = False


PLANE = cast(App, Plane())


def settings_of(folder: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, mlops_base_path=folder, **values)


def test_the_api_stands_in_front_of_the_data_plane(tmp_path: Path) -> None:
    with mounted_api(PLANE, settings_of(tmp_path), "127.0.0.1") as app:
        assert isinstance(app, Dispatcher)
        assert app.plane is PLANE


def test_api_in_replica_leaves_the_api_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_BASE_PATH", str(tmp_path))
    monkeypatch.setenv("API_IN_REPLICA", "false")
    with mounted_api(PLANE, current_settings(), "127.0.0.1") as app:
        assert app is PLANE


def test_api_allowed_hosts_are_answered_beside_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_BASE_PATH", str(tmp_path))
    monkeypatch.setenv("API_ALLOWED_HOSTS", "desk")
    context = make_context(current_settings(), bool)
    client = Client(build_api(context))
    asked = {host: client.get("docs", headers={"host": host}) for host in ("desk", "shelf")}
    assert {host: answer.status_code for host, answer in asked.items()} == {
        "desk": 200,
        "shelf": 403,
    }
    client.close()
    context.close()


def test_another_host_gets_forecasts_and_no_api(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        mounted_api(PLANE, settings_of(tmp_path), "0.0.0.0") as app,
    ):
        assert app is PLANE
    assert "listens on 127.0.0.1 only, not on 0.0.0.0" in caplog.text


def test_the_api_alone_does_not_start_on_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_HOST", "0.0.0.0")
    with pytest.raises(SystemExit, match=r"does not start.*API_HOST=127\.0\.0\.1"):
        api.main([])
