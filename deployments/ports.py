"""Which ports are taken, and by which processes; read from Linux's ``/proc``."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from mlops.errors import SettingsError

LISTENS = "0A"
"""The state of a listening socket in Linux's table of TCP sockets."""


def check_ports(ports: Mapping[str, tuple[str, int]]) -> None:
    """Look whether nothing listens yet at these hosts and ports.

    Args:
        ports: Host and port by the flag or setting that chooses the port.

    Raises:
        SettingsError: naming each port that is taken, and by which process.
    """
    with ExitStack() as opened:
        problems = []
        for chosen_by, (host, port) in ports.items():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                opened.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                problems.append(_describe_problem(chosen_by, host, port, error))
    if problems:
        raise SettingsError("; ".join(problems) + ". Nothing was started")


def _describe_problem(chosen_by: str, host: str, port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"{host}:{port} cannot be listened on ({error.strerror}); {chosen_by} chooses it"
    listeners = find_listeners(port)
    if os.getpid() in listeners:
        return f"port {port} is asked for twice; {chosen_by} chooses another one"
    names = ", ".join(_describe_process(pid) for pid in listeners) or "a process of another user"
    return f"port {port} is taken by {names}: stop it, or choose another port by {chosen_by}"


def _describe_process(pid: int) -> str:
    """Its id, name and folder; its arguments may hold secrets."""
    with suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return f"process {pid} ({name}, in {os.readlink(f'/proc/{pid}/cwd')})"
    return f"process {pid}"


def find_listeners(port: int) -> list[int]:
    """Processes that listen on a TCP port; those of other users are not found."""
    sockets = {f"socket:[{inode}]" for inode in _list_listening_sockets(port)}
    if not sockets:
        return []
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in processes if sockets & _list_open_files(pid)]


def _list_listening_sockets(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, *others = line.split()
                if state == LISTENS and int(local.rpartition(":")[2], 16) == port:
                    yield others[5]


def _list_open_files(pid: int) -> set[str]:
    names = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                names.add(os.readlink(descriptor))
    return names
