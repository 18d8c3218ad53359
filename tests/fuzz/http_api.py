"""Asks a replica's HTTP API all that its OpenAPI document allows, and what that forbids.

    python -m tests.fuzz.http_api --minutes 5

schemathesis makes the requests, by `schemathesis.toml`; the exit status is its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from tests.faults.template import make_template
from tests.fuzz.wire import serve

ROOT = Path(__file__).parents[2]
HOOKS = "tests.fuzz.schema_hooks"


def fuzz_api(minutes: float, seed: int) -> int:
    """Run schemathesis against a replica of an installation made for it; returns its status."""
    with tempfile.TemporaryDirectory(prefix="fuzz-api-") as name:
        folder = Path(name)
        make_template(folder)
        # No Prefect answers there, so that trainings and jobs are a 503.
        nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "SERVING_MAX_BODY_MB": "1"}
        with serve(folder, nowhere) as (_, port):
            return run_schemathesis(port, minutes, seed, folder)


def run_schemathesis(port: int, minutes: float, seed: int, folder: Path) -> int:
    """Its exit status, 0 where it found nothing; it keeps what it remembers in the folder."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml"),
        "run", f"http://127.0.0.1:{port}/mlops/api/openapi.json",
        "--max-time", str(int(60 * minutes)), "--seed", str(seed), "--continue-on-failure",
    ]  # fmt: skip
    environment = os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run for some minutes, from a seed that is printed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http_api", description=__doc__)
    parser.add_argument("--seed", type=int, help="by default another one each time")
    parser.add_argument("--minutes", type=float, default=5.0)
    given = parser.parse_args(arguments)
    seed = SystemRandom().randrange(2**31) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    return fuzz_api(given.minutes, seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
