"""Copies a store on Postgres by `pg_dump`, and puts the copy back by `pg_restore`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import sqlalchemy as sa

from mlops.errors import BackupError


def dump_postgres(url: str, target: Path) -> None:
    """Copy the database.

    Raises:
        BackupError: when `pg_dump` is not installed, or fails.
    """
    require_program("pg_dump")
    _run("pg_dump", url, "--format=custom", f"--file={target}")


def require_program(name: str) -> None:
    """Check that one of Postgres' client programs is installed here.

    Raises:
        BackupError: when it is not.
    """
    if shutil.which(name) is None:
        raise BackupError(
            f"{name} is not installed here, so nothing was changed; install Postgres' client "
            "programs (Debian: apt-get install postgresql-client), of the server's release or newer"
        )


def restore_postgres(url: str, source: Path) -> None:
    """Put the copy into the database, in one transaction.

    Raises:
        BackupError: when `pg_restore` is not installed, or fails.
    """
    require_program("pg_restore")
    options = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error")
    _run("pg_restore", url, *options, str(source))


def _run(program: str, url: str, *options: str) -> None:
    # The password goes through the environment: every user sees the arguments of a process.
    password = sa.make_url(url).password
    done = subprocess.run(
        [program, f"--dbname={_without_password(url)}", *options],
        env=os.environ | ({"PGPASSWORD": str(password)} if password else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackupError(f"{program} failed: {done.stderr.strip()[-1000:]}")


def _without_password(url: str) -> str:
    parsed = sa.make_url(url).set(drivername="postgresql", password=None)
    return parsed.render_as_string()
