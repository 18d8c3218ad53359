"""Tests that share what takes long to make share a worker; what waits is begun first."""

from __future__ import annotations

import pytest

from tests.grouping import FIRST, TIMING_AT_MOST, check_timing, group_of, rank_of

HERE = "tests/mlops/test_one.py"


@pytest.mark.parametrize(
    ("scopes", "group"),
    [
        ({}, None),
        ({"tmp_path": "function", "mlflow_template": "session"}, None),
        ({"fitted": "module", "tmp_path": "function"}, HERE),
        ({"prefect_server": "session"}, "prefect"),
        ({"prefect_server": "session", "trained": "module"}, "prefect"),
        ({"stage": "session"}, "faults"),
    ],
)
def test_tests_of_one_expensive_fixture_share_a_worker(
    scopes: dict[str, str], group: str | None
) -> None:
    assert group_of(HERE, scopes) == group


@pytest.fixture(scope="module")
def made_once() -> object:
    return object()


def test_a_worker_reports_a_test_under_its_group(
    request: pytest.FixtureRequest, made_once: object
) -> None:
    """A pytest that pytest-xdist does not know makes it ignore groups, and it says nothing."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("not a worker of a run by groups")
    assert request.node.nodeid.endswith("@tests/test_grouping.py")


def test_what_waits_long_is_begun_first() -> None:
    paths = [HERE, "tests/flows/test_train.py", "tests/faults/test_kills.py", "tests/flows_two.py"]
    assert sorted(paths, key=rank_of) == [paths[2], paths[1], paths[0], paths[3]]
    assert rank_of(HERE) == len(FIRST)


def test_every_path_that_is_begun_first_exists(request: pytest.FixtureRequest) -> None:
    assert [path for path in FIRST if not (request.config.rootpath / path).exists()] == []


def test_more_timing_tests_than_allowed_are_refused_by_name() -> None:
    tests = [f"test_{number}" for number in range(TIMING_AT_MOST + 1)]
    check_timing(tests[1:])
    with pytest.raises(ValueError, match=r"11 tests are marked `timing`.*test_10"):
        check_timing(tests)
