"""A taken port is named with its process, its flag and what to do, before anything starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deployments.ports import check_ports, find_listeners
from deployments.processes import free_port
from mlops.errors import SettingsError

LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def taken() -> Iterator[tuple[int, int]]:
    """A port that another process listens on, and that process."""
    port = free_port()
    command = [sys.executable, "-c", LISTEN, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield port, process.pid
        process.communicate()


def test_free_ports_pass_and_stay_free() -> None:
    ports = {"--port": ("127.0.0.1", free_port()), "--mlflow-port": ("0.0.0.0", free_port())}
    for _ in range(2):
        check_ports(ports)


def test_a_taken_port_is_named_with_its_process_and_the_flag_that_changes_it(
    taken: tuple[int, int],
) -> None:
    port, pid = taken
    ports = {"--port": ("127.0.0.1", free_port()), "--prefect-port": ("127.0.0.1", port)}
    with pytest.raises(SettingsError) as refused:
        check_ports(ports)
    name = f"process {pid} (python"
    assert str(refused.value).startswith(f"port {port} is taken by {name}")
    assert f"in {os.getcwd()}): stop it, or choose another port by --prefect-port" in str(
        refused.value
    )
    assert str(refused.value).endswith("Nothing was started")


def test_all_interfaces_are_taken_where_one_is(taken: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=f"process {taken[1]}"):
        check_ports({"--port": ("0.0.0.0", taken[0])})


def test_each_taken_port_is_named(taken: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        own_port = ours.getsockname()[1]
        with pytest.raises(SettingsError) as refused:
            check_ports({"--port": ("127.0.0.1", own_port), "API_PORT": ("127.0.0.1", taken[0])})
    assert f"port {own_port} " in str(refused.value)
    assert f"port {taken[0]} " in str(refused.value)


def test_one_port_for_two_servers_is_refused() -> None:
    where = ("127.0.0.1", free_port())
    with pytest.raises(SettingsError, match="asked for twice; --mlflow-port chooses"):
        check_ports({"--port": where, "--mlflow-port": where})


def test_an_address_that_this_machine_does_not_have_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1:8005 cannot be listened on"):
        check_ports({"API_HOST": ("192.0.2.1", 8005)})


def test_the_process_that_listens_is_found(taken: tuple[int, int]) -> None:
    assert find_listeners(taken[0]) == [taken[1]]
    assert find_listeners(free_port()) == []
