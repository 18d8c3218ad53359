"""Operations: begun, ended, repeated by key, and failed where their process has ended."""

from __future__ import annotations

import pytest

from mlops.errors import OperationNotFound, RequestKeyReused, StoreError
from mlops.store import Store
from mlops.store.operations import Operation, begin_operation, end_operation, get_operation
from mlops.store.requests import RequestKey
from mlops.store.schema import OperationStatus


def begin(store: Store, *, seconds: float = 60, request: RequestKey | None = None) -> Operation:
    return begin_operation(
        store, "register", owner="local", holder="a", seconds=seconds, request=request
    )


def test_an_operation_is_running_until_its_result_is_kept(store: Store) -> None:
    begun = begin(store)
    assert begun.status is OperationStatus.RUNNING
    end_operation(store, begun.id, "a", result={"model_id": "m"})
    done = get_operation(store, begun.id)
    assert (done.status, done.result, done.problem) == (
        OperationStatus.DONE, {"model_id": "m"}, None
    )  # fmt: skip
    assert done.ended_at is not None


def test_a_failed_operation_keeps_its_problem(store: Store) -> None:
    begun = begin(store)
    end_operation(store, begun.id, "a", problem={"status": 422})
    failed = get_operation(store, begun.id)
    assert (failed.status, failed.problem) == (OperationStatus.FAILED, {"status": 422})


def test_an_operation_whose_process_ended_has_failed_for_good(store: Store) -> None:
    begun = begin(store, seconds=-1)
    lost = get_operation(store, begun.id)
    assert lost.status is OperationStatus.FAILED
    assert "the process that worked on it ended" in str(lost.problem)
    with pytest.raises(StoreError, match="no longer held by a"):
        end_operation(store, begun.id, "a", result={})
    assert get_operation(store, begun.id).status is OperationStatus.FAILED


def test_only_its_holder_ends_an_operation_and_once(store: Store) -> None:
    begun = begin(store)
    with pytest.raises(StoreError, match="no longer held by b"):
        end_operation(store, begun.id, "b", result={})
    end_operation(store, begun.id, "a", result={})
    with pytest.raises(StoreError, match="no longer held"):
        end_operation(store, begun.id, "a", problem={})


def test_a_repeated_request_gets_the_same_operation(store: Store) -> None:
    begun = begin(store, request=RequestKey("k", "d" * 64))
    assert begin(store, request=RequestKey("k", "d" * 64)) == begun
    with pytest.raises(RequestKeyReused, match=begun.id):
        begin(store, request=RequestKey("k", "e" * 64))


def test_an_unknown_operation_is_an_error(store: Store) -> None:
    with pytest.raises(OperationNotFound, match="'op-1'"):
        get_operation(store, "op-1")
