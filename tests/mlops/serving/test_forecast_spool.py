"""Forecasts reach the store once, whatever becomes of the store or the process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops.errors import StoreError
from mlops.serving.forecast_spool import ForecastSpool
from mlops.store import Store, list_forecasts, open_store
from mlops.store.ab_tests import ForecastGap, GapReason, list_gaps
from mlops.store.forecasts import ForecastRow, Role
from tests.forked import in_child

AT = datetime(2025, 1, 1, tzinfo=UTC)
ROW = ForecastRow("svc", AT, "m", Role.RECORD, 0.25, 0.1, None, AT, 3, "r1", "d" * 64)
GAP = ForecastGap("svc", AT, "other", GapReason.TIME_BUDGET, "r1", AT)
MIB = 1024**2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[ForecastSpool]:
    made = ForecastSpool(tmp_path / "spool", "me", max_bytes=MIB)
    yield made
    made.close()


def bars(n: int) -> list[ForecastRow]:
    return [replace(ROW, bar=AT + timedelta(hours=hour)) for hour in range(n)]


def test_a_row_is_stored_as_it_was_made(spool: ForecastSpool, store: Store) -> None:
    assert spool.put([ROW])
    assert spool.drain(store) == 1
    assert list_forecasts(store, "svc") == (ROW,)
    assert (spool.waiting(), spool.waiting_bytes()) == (False, 0)


def test_a_gap_is_stored_as_it_was_made_beside_the_forecasts(
    spool: ForecastSpool, store: Store
) -> None:
    assert spool.put([GAP, ROW])
    assert spool.put([GAP])
    assert spool.drain(store) == 3
    assert list_gaps(store, "svc", since=AT, until=AT + timedelta(hours=1)) == (GAP,)
    assert list_forecasts(store, "svc") == (ROW,)


def test_forecasts_are_kept_while_the_store_takes_its_time(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_slowly(*_: object) -> int:
        assert spool.put(bars(3)[1:])
        assert spool.drain(store) == 0, "two write the same rows"
        return 0

    spool.put([ROW])
    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool.record_forecasts", record_slowly)
        assert spool.drain(store) == 1
    assert spool.drain(store) == 2
    assert [row.bar for row in list_forecasts(store, "svc")] == [row.bar for row in bars(3)[1:]]
    assert not spool.waiting()


def test_a_row_that_is_written_twice_is_stored_once(spool: ForecastSpool, store: Store) -> None:
    for value in (0.25, 0.75):
        spool.put([replace(ROW, value=value)])
        spool.drain(store)
    assert [row.value for row in list_forecasts(store, "svc")] == [0.25]


def test_a_bar_has_one_forecast_of_record_and_any_shadow(
    spool: ForecastSpool, store: Store
) -> None:
    other = replace(ROW, model_id="other")
    spool.put([ROW, other, replace(other, role=Role.SHADOW)])
    spool.drain(store)
    stored = {(row.model_id, row.role) for row in list_forecasts(store, "svc", role=None)}
    assert stored == {("m", Role.RECORD), ("other", Role.SHADOW)}


def test_rows_wait_while_the_store_is_away(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> int:
        raise StoreError("away")

    spool.put(bars(3))
    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool.record_forecasts", away)
        with pytest.raises(StoreError):
            spool.drain(store)
    spool.put(bars(5)[3:])
    assert spool.drain(store) == 5
    assert len(list_forecasts(store, "svc")) == 5


def test_a_dead_process_is_adopted_and_a_living_one_left_alone(
    tmp_path: Path, spool: ForecastSpool, store: Store
) -> None:
    def die() -> None:
        other = ForecastSpool(tmp_path / "spool", "other", max_bytes=MIB)
        other.put(bars(2))
        os._exit(9)

    living = ForecastSpool(tmp_path / "spool", "living", max_bytes=MIB)
    living.put([replace(ROW, bar=AT + timedelta(days=9))])
    in_child(die)
    spool.drain(store)
    assert len(list_forecasts(store, "svc")) == 2
    living.drain(store)
    living.close()
    assert len(list_forecasts(store, "svc")) == 3


def test_a_line_that_a_kill_left_half_costs_only_itself(
    tmp_path: Path, spool: ForecastSpool, store: Store
) -> None:
    spool.put([ROW])
    with (tmp_path / "spool" / "me.jsonl").open("ab") as file:
        file.write(b'{"service": "svc", "bar": "2025-0')
    spool.drain(store)
    assert (len(list_forecasts(store, "svc")), spool.torn) == (1, 1)


def test_a_full_spool_refuses_and_says_so(tmp_path: Path) -> None:
    small = ForecastSpool(tmp_path / "small", "me", max_bytes=400)
    assert [small.put([ROW]) for _ in range(3)] == [True, False, False]
    assert small.refused == 2
    small.close()


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_no_half_line(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool.os.fsync", no_space)
        assert not spool.put([ROW])
    assert spool.trouble == (
        f"the spool {spool.folder / 'me.jsonl'} cannot be written: No space left on device (ENOSPC)"
    )
    assert spool.put(bars(2))
    assert spool.trouble == ""
    spool.drain(store)
    assert (len(list_forecasts(store, "svc")), spool.torn, spool.refused) == (2, 0, 1)


def test_a_disk_that_is_full_when_the_spool_is_emptied_loses_and_doubles_nothing(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.put([ROW])
    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool._cut_front", no_space)
        spool.drain(store)
    assert spool.waiting()
    spool.drain(store)
    assert list_forecasts(store, "svc") == (ROW,)
    assert not spool.waiting()


def encoded(**changes: object) -> bytes:
    fields = asdict(ROW) | {"bar": AT.isoformat(), "made_at": AT.isoformat()} | changes
    return f"{json.dumps(fields)}\n".encode()


def encoded_gap(**changes: object) -> bytes:
    fields = asdict(GAP) | {"bar": AT.isoformat(), "at": AT.isoformat()} | changes
    return f"{json.dumps(fields)}\n".encode()


BAD = {
    "a time without a zone": encoded(bar="2025-01-01T00:00:00"),
    "no number": encoded(value="high"),
    "no value": encoded(value=None),
    "no finite value": encoded(value=float("nan")),
    "half a character": encoded(model_id="\ud800"),
    "a number that is too large": encoded(generation=2**70),
    "no text": encoded(service={"name": "svc"}),
    "an unknown field": encoded(colour="red"),
    "an unknown role": encoded(role="oracle"),
    "an unknown reason": encoded_gap(reason="tired"),
    "a gap without a version": encoded_gap(model_id=None),
    "no row": b"[1, 2]\n",
    "no JSON": b"\x00\xff\n",
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_line_that_the_store_refuses_is_set_aside_and_holds_up_no_other(
    tmp_path: Path, spool: ForecastSpool, store: Store, line: bytes
) -> None:
    first, *others = bars(5)
    spool.put([first])
    with (tmp_path / "spool" / "me.jsonl").open("ab") as file:
        file.write(line)
    spool.put(others)
    (tmp_path / "spool" / "dead.jsonl").write_bytes(line)
    spool.drain(store)
    assert list_forecasts(store, "svc") == tuple(bars(5))
    assert (spool.bad, spool.torn, spool.waiting_bytes()) == (2, 0, 0)
    assert (tmp_path / "spool" / "me.bad").read_bytes() == 2 * line


def test_a_full_disk_beside_a_refused_line_holds_up_no_other(
    tmp_path: Path, spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.put([ROW])
    with (tmp_path / "spool" / "me.jsonl").open("ab") as file:
        file.write(BAD["no value"])
    monkeypatch.setattr("mlops.serving.forecast_spool._append", no_space)
    spool.drain(store)
    assert list_forecasts(store, "svc") == (ROW,)
    assert (spool.bad, spool.waiting()) == (1, False)


def test_a_refusal_is_over_once_there_is_room_though_no_forecast_comes(
    spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mlops.serving.forecast_spool.os.fsync", no_space)
        spool.put([ROW])
        spool.drain(store)
        assert spool.trouble != ""
    spool.drain(store)
    assert (spool.trouble, spool.waiting(), spool.bad) == ("", False, 0)


def test_lines_that_were_set_aside_are_bounded(
    tmp_path: Path, spool: ForecastSpool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = BAD["no value"]
    monkeypatch.setattr("mlops.serving.forecast_spool.BAD_BYTES", 3 * len(line))
    (tmp_path / "spool" / "dead.jsonl").write_bytes(9 * line)
    spool.drain(store)
    assert spool.bad == 9
    assert (tmp_path / "spool" / "me.bad").read_bytes() == 3 * line


def test_lock_files_of_dead_processes_do_not_pile_up(tmp_path: Path) -> None:
    folder = tmp_path / "spool"

    def die() -> None:
        ForecastSpool(folder, "dead", max_bytes=MIB)
        os._exit(9)

    in_child(die)
    living = ForecastSpool(folder, "living", max_bytes=MIB)
    for path in folder.glob("*.lock"):
        os.utime(path, (0, 0))
    ForecastSpool(folder, "last", max_bytes=MIB).close()
    assert {path.name for path in folder.iterdir()} == {"living.lock"}
    living.close()
    assert not list(folder.iterdir())


def test_a_new_file_is_flushed_with_its_folder(
    tmp_path: Path, spool: ForecastSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr("mlops.serving.forecast_spool.os.fsync", note)
    spool.put([ROW])
    spool.put([ROW])
    file, folder = str(tmp_path / "spool" / "me.jsonl"), str(tmp_path / "spool")
    assert flushed == [file, folder, file]
