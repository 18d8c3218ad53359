"""Copies of an installation: `python -m deployments.backup take|restore|check`.

take FOLDER      copy store, bundles, MLflow's database and signing key into a new folder there
restore BACKUP   check such a copy, and put it in the place of what the settings name
check            tell what is wrong with the installation; the exit status is 1 where anything is
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlops.backup import find_problems, restore_backup, take_backup
from mlops.errors import MlopsError
from mlops.installation import Installation, open_installation
from mlops.settings import current_settings


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.backup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("take").add_argument("folder", type=Path)
    commands.add_parser("restore").add_argument("folder", type=Path, metavar="backup")
    commands.add_parser("check")
    given = parser.parse_args(arguments)
    try:
        installation = open_installation(current_settings())
        if given.command == "take":
            return _take(installation, given.folder)
        if given.command == "restore":
            return _restore(installation, given.folder)
        return _check(installation)
    except MlopsError as error:
        print(error, file=sys.stderr)
        return 1


def _take(installation: Installation, folder: Path) -> int:
    target, contents = take_backup(installation, folder)
    print("not in it:", *contents.left_out, sep="\n  ")
    print(target)
    return 0


def _restore(installation: Installation, backup: Path) -> int:
    contents, key_changed = restore_backup(installation, backup)
    print(f"restored the backup of {contents.made_at:%Y-%m-%d %H:%M:%S} UTC")
    print("not restored:", *contents.left_out, sep="\n  ")
    if key_changed:
        print("restart all processes: the signing key is another one now")
    return 0


def _check(installation: Installation) -> int:
    problems = find_problems(installation)
    print(*(problems or ["nothing is wrong"]), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
