"""The rotation of the key that signs bundles: `python -m deployments.keys add`, later `drop`.

`add` makes the next key beside the current one. Copy it to every other machine and restart all
processes there and here; from then on a bundle may be signed by either. Then run `drop` on each
machine: it signs all bundles by the next key, which takes the place of the current one.
"""

from __future__ import annotations

import argparse
import sys

from mlops.errors import MlopsError
from mlops.installation import Installation, open_installation
from mlops.registry.connection import key_file
from mlops.registry.key_rotation import add_next_key, drop_old_key
from mlops.settings import current_settings


def main(arguments: list[str] | None = None) -> int:
    """Begin or end a rotation; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployments.keys", description=__doc__)
    parser.add_argument("command", choices=["add", "drop"])
    command = parser.parse_args(arguments).command
    try:
        installation = open_installation(current_settings())
        print(_add(installation) if command == "add" else _drop(installation))
    except MlopsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _add(installation: Installation) -> str:
    path = add_next_key(installation.store, key_file(installation.home), installation.bundles)
    return (
        f"copy {path} to the same folder of every other machine (mode 0600), restart all "
        "processes, then run `python -m deployments.keys drop` on each machine"
    )


def _drop(installation: Installation) -> str:
    unsigned = drop_old_key(installation.registry)
    left_out = f"; unreadable, and no longer loadable: {', '.join(unsigned)}" if unsigned else ""
    return f"all bundles are signed by the next key, which is now the only one here{left_out}"


if __name__ == "__main__":
    sys.exit(main())
