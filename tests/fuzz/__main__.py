"""`make fuzz`: mutated requests, bundles and models for some minutes, from a seed that it prints.

It is a program and no test, because it runs for as long as it is told, prints as it goes, and
makes a single case again. `tests/fuzz/test_fuzz.py` runs a few hundred cases in the quick run.
Its exit status is 1 where it found anything.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

from mlops.manager import MLOpsManager
from mlops.models.signing import SigningKey, load_key
from mlops.registry import bundle_parts, write_bundle
from mlops.registry.connection import key_file
from mlops.settings import Settings
from tests.faults.template import BASELINE, CHAMPION, make_template
from tests.fuzz.bundles import BundleResults, fuzz_bundles
from tests.fuzz.in_process import NAMES, RequestResults, fuzz_app, open_replica
from tests.fuzz.model_files import (
    ModelFileResults,
    Original,
    Passed,
    fuzz_model_files,
    make_dataset,
    make_mutant,
    make_originals,
)
from tests.fuzz.requests import RequestMaker
from tests.fuzz.upload_bodies import BodyResults, fuzz_bodies, make_body
from tests.fuzz.uploads import fuzz_uploads
from tests.fuzz.wire import (
    WireResults,
    fuzz_server,
    look_at_process,
    make_raw,
    resident_mb,
    serve,
    write_http,
)

STEP = 500
"""Cases between two lines of progress."""

LONGEST_CPU_S = 5.0
"""CPU time of the process that one small request may cost."""

PARTS = ("bundle", "file", "body", "request", "raw")
NETWORK = {"lstm_units": [8], "epochs": 1, "sequence_length": 10}

Results = BundleResults | ModelFileResults | BodyResults | RequestResults | WireResults


class Progress:
    """Prints what was found, and counts it."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.findings = 0

    def tell(self, part: str, done: int, counted: Counter[str], findings: Sequence[str]) -> None:
        """Print a line of progress, and each finding whole."""
        self.findings += len(findings)
        shown = ", ".join(f"{name} {count:,}" for name, count in counted.most_common())
        spent = time.monotonic() - self.began
        print(f"{spent:5.0f} s  {part:<8}{done:>7,} done: {shown}", flush=True)
        for finding in findings:
            print(f"         FOUND {finding}", flush=True)


def run_part(
    progress: Progress, part: str, chosen: range, until: float, run: Callable[[range], Results]
) -> None:
    """Run cases in steps, until all are done or the time is up."""
    counted: Counter[str] = Counter()
    for first in itertools.count(chosen.start, STEP):
        numbers = range(first, min(first + STEP, chosen.stop))
        if not numbers or (first > chosen.start and time.monotonic() > until):
            return
        results = run(numbers)
        has_outcomes = isinstance(results, BundleResults | ModelFileResults | BodyResults)
        counts = results.outcomes if has_outcomes else results.statuses
        counted.update({str(name): count for name, count in counts.items()})
        progress.tell(part, numbers.stop - chosen.start, counted, results.findings)


def main(arguments: Sequence[str]) -> int:
    """Run all parts, or one case again; returns the exit status."""
    given = parse(arguments)
    seed = SystemRandom().randrange(2**31) if given.seed is None else given.seed
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"seed {seed}", flush=True)
    progress, only = Progress(), given.only
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        make_template(folder)
        if only is None or only[0] == "bundle":
            numbers = range(given.bundles) if only is None else range(only[1], only[1] + 1)
            run_bundles(progress, folder, seed, numbers)
        if only is None or only[0] == "file":
            numbers = range(given.files) if only is None else range(only[1], only[1] + 1)
            passed = run_files(progress, seed, numbers, shown=only is not None)
            if passed and given.uploads:
                run_uploads(progress, folder, passed[: given.uploads], given.minutes / 2)
        if only is None or only[0] == "body":
            numbers = range(given.files) if only is None else range(only[1], only[1] + 1)
            run_bodies(progress, folder, seed, numbers, shown=only is not None)
        minutes = given.minutes / 2
        endless = range(sys.maxsize) if only is None else range(only[1], only[1] + 1)
        if only is None or only[0] == "request":
            run_requests(progress, folder, seed, endless, minutes, shown=only is not None)
        if only is None or only[0] == "raw":
            run_server(progress, folder, seed, endless, minutes, shown=only is not None)
    print(f"seed {seed}: {progress.findings} findings")
    return 1 if progress.findings else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, help="by default another one each time")
    parser.add_argument("--minutes", type=float, default=4.0, help="of requests (4)")
    parser.add_argument("--bundles", type=int, default=7000, help="mutated bundles (7000)")
    parser.add_argument("--files", type=int, default=10_000, help="mutated model files (10000)")
    parser.add_argument(
        "--uploads", type=int, default=500,
        help="most of these that a replica is sent, in half of the minutes (500)",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=parse_case, metavar="PART:NUMBER", help="one case, such as request:123"
    )
    return parser.parse_args(arguments)


def parse_case(text: str) -> tuple[str, int]:
    """A part and the number of a case in it."""
    part, _, number = text.partition(":")
    if part not in PARTS or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no case; write one of {PARTS} and a number")
    return part, int(number)


def run_bundles(progress: Progress, folder: Path, seed: int, numbers: range) -> None:
    """Open mutated bundles of a naive, a linear and a recurrent model."""
    key = load_key(key_file(folder))
    network = folder / "bundles" / "network"
    write_network(network, key)
    originals = [folder / "bundles" / BASELINE, folder / "bundles" / CHAMPION, network]

    def run(numbers: range) -> BundleResults:
        return fuzz_bundles(originals, key, folder / "mutant", seed=seed, numbers=numbers)

    run_part(progress, "bundle", numbers, float("inf"), run)


def run_files(progress: Progress, seed: int, numbers: range, *, shown: bool) -> list[Passed]:
    """Read mutated model files; returns those that could be read."""
    dataset = make_dataset()
    originals: list[Original] = make_originals(dataset)
    if shown:
        print(make_mutant(originals, seed, numbers.start))
    passed: list[Passed] = []

    def run(numbers: range) -> ModelFileResults:
        results = fuzz_model_files(originals, dataset, seed=seed, numbers=numbers)
        passed.extend(results.passed)
        return results

    run_part(progress, "file", numbers, float("inf"), run)
    return passed


def run_bodies(progress: Progress, folder: Path, seed: int, numbers: range, *, shown: bool) -> None:
    """Parse mutated bodies of registrations."""
    manager = MLOpsManager(Settings(_env_file=None, mlops_base_path=folder, allow_onnx=True))
    originals = make_originals(make_dataset())
    if shown:
        print(make_body(originals, seed, numbers.start))

    def run(numbers: range) -> BodyResults:
        return fuzz_bodies(manager, originals, seed=seed, numbers=numbers)

    run_part(progress, "body", numbers, float("inf"), run)


def run_uploads(progress: Progress, folder: Path, passed: list[Passed], minutes: float) -> None:
    """Send files that could be read to a serving process."""
    with serve(folder, {"ALLOW_ONNX": "true"}) as (server, port):
        assert server.process is not None
        until = time.monotonic() + 60 * minutes
        results = fuzz_uploads(port, server.process.pid, passed, until=until)
        findings = results.findings + look_at_process(server, resident_mb(server.process.pid))
    counted = Counter({str(status): count for status, count in results.statuses.items()})
    progress.tell("upload", results.statuses.total(), counted, findings)


def write_network(folder: Path, key: SigningKey) -> None:
    """The bundle of a small network."""
    from mlops.data.simulator import simulate_bars
    from tests.mlops.registry.conftest import SERVICE, dataset_of, fitted

    dataset = dataset_of(simulate_bars(1500, seed=1))
    write_bundle(bundle_parts(fitted("lstm", dataset, NETWORK), dataset, SERVICE), folder, key)


def run_requests(
    progress: Progress, folder: Path, seed: int, numbers: range, minutes: float, *, shown: bool
) -> None:
    """Send requests to an app in this process."""
    until = time.monotonic() + 60 * minutes
    with open_replica(folder) as runtime:
        maker = RequestMaker(seed, NAMES, runtime.pool.warm_up(CHAMPION))
        if shown:
            print(write_http(maker.make(numbers.start)))

        def run(numbers: range) -> RequestResults:
            results = fuzz_app(runtime, maker, numbers)
            seconds, number = results.slowest
            if seconds > LONGEST_CPU_S:
                results.findings.append(f"request {number}: it cost {seconds:.1f} s of CPU time")
            return results

        run_part(progress, "request", numbers, until, run)


def run_server(
    progress: Progress, folder: Path, seed: int, numbers: range, minutes: float, *, shown: bool
) -> None:
    """Send bytes to a serving process."""
    with open_replica(folder) as runtime:
        maker = RequestMaker(seed, NAMES, runtime.pool.warm_up(CHAMPION))
    if shown:
        print(b"".join(make_raw(maker, numbers.start).pieces))
    with serve(folder, {"SERVING_MAX_BODY_MB": "1"}) as (server, port):
        assert server.process is not None
        # What the first requests of a process load stays in memory.
        fuzz_server(port, maker, range(100))
        before_mb = resident_mb(server.process.pid)
        until = time.monotonic() + 60 * minutes
        run_part(progress, "raw", numbers, until, lambda some: fuzz_server(port, maker, some))
        after_mb = resident_mb(server.process.pid)
        print(f"         memory of the process: {before_mb:.0f} MB, then {after_mb:.0f} MB")
        progress.tell("process", 1, Counter(), look_at_process(server, before_mb))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
