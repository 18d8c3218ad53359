"""How much memory this process may still take, where the system says so."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = MEMINFO, group: Path = CONTROL_GROUP) -> int | None:
    """Bytes of the machine or, where that is less, of the container; None where nothing says."""
    known = [found for found in (_machine(meminfo), _container(group)) if found is not None]
    return min(known, default=None)


def _machine(meminfo: Path) -> int | None:
    kib = _numbers(meminfo).get("MemAvailable:")
    return None if kib is None else kib * 1024


def _container(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        # No control groups here, or no limit ("max").
        return None
    # Pages of files that nobody reads any more count as used and are given up on demand.
    return max(0, limit - used + _numbers(group / "memory.stat").get("inactive_file", 0))


def _numbers(path: Path) -> dict[str, int]:
    """The leading ``name number`` pairs of a file's lines."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {parts[0]: int(parts[1]) for parts in lines if len(parts) > 1 and parts[1].isdigit()}
