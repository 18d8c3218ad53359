"""Markets and the bars of files: replaced as a whole, and gone once nothing names them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlops.store import Store, Why, list_audit_entries
from mlops.store import markets as module
from mlops.store.markets import (
    BarFile,
    delete_unused_bars,
    get_bar_file,
    get_market,
    list_markets,
    put_bars,
    read_chunks,
    set_market,
)

from .conftest import NOW, SERVICE

CHUNKS = {f"{n:064}": f"bars {n}".encode() for n in range(40)}
FILE = BarFile(
    id="f" * 64,
    path="/home/anna/bars.csv",
    digest="d" * 64,
    bars=40,
    last_close=NOW,
    chunks=list(CHUNKS),
    size=3_000_000_000,
    modified_ns=1_700_000_000_000_000_000,
    read_at=NOW,
)


def named(store: Store, file: str | None, service: str = SERVICE) -> None:
    with store.write() as connection:
        choice = {"bars_file": FILE.path}
        set_market(connection, service, choice=choice, file=file, why=Why(NOW, actor="anna"))


def test_the_bars_of_a_file_come_back_whole_or_the_newest_of_them(store: Store) -> None:
    put_bars(store, FILE, CHUNKS)
    assert get_bar_file(store, FILE.id) == FILE
    assert read_chunks(store, FILE.id) == tuple(CHUNKS.values())
    assert read_chunks(store, FILE.id, newest=3) == tuple(CHUNKS.values())[-3:]
    assert read_chunks(store, "0" * 64) == ()


def test_a_file_that_grows_writes_its_last_chunk_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bars(store, FILE, CHUNKS)
    written: list[str] = []
    rows = module._chunk_rows

    def note(
        file: BarFile, chunks: dict[str, bytes], digests: list[str]
    ) -> list[dict[str, object]]:
        written.extend(digests)
        return rows(file, chunks, digests)

    monkeypatch.setattr(module, "_chunk_rows", note)
    old = list(CHUNKS)[-1]
    grown = {**CHUNKS, "9" * 64: b"longer"}
    del grown[old]
    put_bars(store, replace(FILE, digest="e" * 64, chunks=list(grown)), grown)
    assert written == ["9" * 64]
    assert read_chunks(store, FILE.id) == tuple(grown.values())
    put_bars(store, FILE, CHUNKS)
    assert read_chunks(store, FILE.id) == tuple(CHUNKS.values())


def test_a_writer_that_dies_before_it_names_its_chunks_leaves_the_old_bars(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(FILE, chunks=list(CHUNKS)[:1], bars=1)
    put_bars(store, few, CHUNKS)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_lock_file", die)
        with pytest.raises(KeyboardInterrupt):
            put_bars(store, FILE, CHUNKS)
    assert read_chunks(store, FILE.id) == tuple(CHUNKS.values())[:1]
    put_bars(store, FILE, CHUNKS)
    assert read_chunks(store, FILE.id) == tuple(CHUNKS.values())


def test_a_file_whose_first_reading_never_ended_is_not_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_lock_file", die)
    with pytest.raises(KeyboardInterrupt):
        put_bars(store, FILE, CHUNKS)
    assert get_bar_file(store, FILE.id) is None
    assert read_chunks(store, FILE.id) == ()


def test_a_market_is_set_once_and_its_change_is_audited(store: Store) -> None:
    put_bars(store, FILE, CHUNKS)
    for _ in range(2):
        named(store, FILE.id)
    found = get_market(store, SERVICE)
    assert found is not None
    assert (found.choice, found.file, found.since) == ({"bars_file": FILE.path}, FILE.id, NOW)
    assert list_markets(store) == ((found, replace(FILE, chunks=())),)
    assert [one.actor for one in list_audit_entries(store, subject=SERVICE)] == ["anna"]
    assert get_market(store, "binance.btc-usdt.1h.volatility.24") is None


def test_bars_that_no_market_names_are_deleted_once_they_are_old(store: Store) -> None:
    put_bars(store, FILE, CHUNKS)
    other = replace(FILE, id="0" * 64)
    put_bars(store, other, CHUNKS)
    named(store, FILE.id)
    assert delete_unused_bars(store, before=NOW) == 0
    assert delete_unused_bars(store, before=NOW + timedelta(days=1)) == 1
    assert get_bar_file(store, other.id) is None
    assert read_chunks(store, FILE.id) == tuple(CHUNKS.values())
