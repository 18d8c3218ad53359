"""A short run of `make fuzz`: some hundred mutated requests and bundles of a fixed seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mlops.manager import MLOpsManager
from mlops.models.signing import load_key
from mlops.registry.connection import key_file
from mlops.serving.runtime import Runtime
from mlops.settings import Settings
from tests.faults.template import BASELINE, CHAMPION, make_template
from tests.fuzz.answers import find_fault
from tests.fuzz.bundles import fuzz_bundles, open_mutant
from tests.fuzz.in_process import NAMES, fuzz_app, open_replica
from tests.fuzz.model_files import (
    ModelFileResults,
    fuzz_model_files,
    make_dataset,
    make_originals,
)
from tests.fuzz.mutations import Mutator
from tests.fuzz.requests import RequestMaker
from tests.fuzz.upload_bodies import fuzz_bodies
from tests.fuzz.uploads import fuzz_uploads
from tests.fuzz.wire import look_at_process, make_raw, resident_mb, serve

SEED, REQUESTS, BUNDLES, FILES, UPLOADS = 12, 400, 120, 300, 8
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with signed bundles and a store that knows them."""
    made = tmp_path_factory.mktemp("fuzz")
    make_template(made)
    return made


@pytest.fixture(scope="module")
def replica(folder: Path) -> Iterator[Runtime]:
    with open_replica(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def maker(replica: Runtime) -> RequestMaker:
    return RequestMaker(SEED, NAMES, replica.pool.warm_up(CHAMPION))


def test_no_mutated_request_makes_a_replica_fail(replica: Runtime, maker: RequestMaker) -> None:
    results = fuzz_app(replica, maker, range(REQUESTS))
    assert results.findings == []
    assert {200, 400, 404, 405, 415} <= set(results.statuses)


def test_no_mutated_bundle_loads_or_raises_another_error(folder: Path, tmp_path: Path) -> None:
    bundles = [folder / "bundles" / name for name in (BASELINE, CHAMPION)]
    key = load_key(key_file(folder))
    results = fuzz_bundles(bundles, key, tmp_path / "mutant", seed=SEED, numbers=range(BUNDLES))
    assert results.findings == []
    assert set(results.outcomes) == {
        "refused", "refused, signed again", "loaded, signed again", "loaded, contents unchanged"
    }  # fmt: skip


@pytest.fixture(scope="module")
def file_results() -> ModelFileResults:
    dataset = make_dataset()
    originals = make_originals(dataset)
    return fuzz_model_files(originals, dataset, seed=SEED, numbers=range(FILES))


def test_a_mutated_model_file_is_refused_by_one_error_or_holds_a_model(
    file_results: ModelFileResults,
) -> None:
    assert file_results.findings == []
    assert {"refused", "read, registered"} <= set(file_results.outcomes)
    assert file_results.outcomes["refused"] > FILES / 2


def test_a_mutated_registration_is_refused_as_a_problem_or_is_an_upload(folder: Path) -> None:
    manager = MLOpsManager(Settings(_env_file=None, mlops_base_path=folder, allow_onnx=True))
    originals = make_originals(make_dataset())
    results = fuzz_bodies(manager, originals, seed=SEED, numbers=range(FILES))
    assert results.findings == []
    assert set(results.outcomes) == {"refused", "parsed"}


@pytest.mark.slow
def test_mutated_models_that_can_be_read_leave_nothing_in_a_replica(
    folder: Path, file_results: ModelFileResults
) -> None:
    with serve(folder, {"ALLOW_ONNX": "true"}) as (server, port):
        assert server.process is not None
        sent = file_results.passed[:UPLOADS]
        results = fuzz_uploads(port, server.process.pid, sent, until=float("inf"))
        assert results.findings == []
        assert look_at_process(server, resident_mb(server.process.pid)) == []
    assert results.statuses.total() == UPLOADS
    assert results.statuses[201] > 0


def test_equal_numbers_of_a_seed_are_equal_cases(maker: RequestMaker) -> None:
    again = RequestMaker(SEED, NAMES, maker.bars)
    for number in range(25):
        assert maker.make(number) == again.make(number)
        assert make_raw(maker, number) == make_raw(again, number)
    assert len({str(maker.make(number)) for number in range(25)}) > 20


@pytest.mark.parametrize(
    ("status", "headers", "body", "fault"),
    [
        (500, JSON, b"{}", "500"),
        (504, JSON, b"{}", "504"),
        (503, {}, b"", "503 without"),
        (503, {"retry-after": "1"}, b"", None),
        (501, JSON, b"{}", None),
        (200, JSON, b'{"predictions":[{"forecast":NaN}]}', "no JSON"),
        (200, JSON, b'{"predictions":[{"forecast":null}]}', "no number"),
        (200, JSON, b'{"outputs":[{"data":[1e999]}]}', "no number"),
        (200, JSON, b'{"predictions":[{"forecast":0.5}]}', None),
    ],
)
def test_a_wrong_answer_is_a_finding(
    status: int, headers: dict[str, str], body: bytes, fault: str | None
) -> None:
    found = find_fault(status, headers, body)
    assert found is None if fault is None else fault in str(found)


def test_a_bundle_that_loads_with_other_contents_is_a_finding(
    folder: Path, replica: Runtime
) -> None:
    bundle = folder / "bundles" / CHAMPION
    files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    trust = replica.pool.trust
    assert open_mutant(bundle, trust, files) == "loaded, contents unchanged"
    assert open_mutant(bundle, trust, {**files, "config.json": b"{}"}).startswith("changed config")


def test_mutants_of_json_are_json_of_another_value() -> None:
    document = {"instances": [[1.0, 2.0], [3.0, 4.0]]}
    mutator = Mutator(Random(0))
    mutants = [json.dumps(mutator.mutate_json(document)) for _ in range(200)]
    assert sum(mutant != json.dumps(document) for mutant in mutants) > 150
    assert document == {"instances": [[1.0, 2.0], [3.0, 4.0]]}
