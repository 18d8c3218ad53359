"""A store has an identity of its own, the same for every machine that opens it."""

from __future__ import annotations

from contextlib import closing

from mlops.store import Store, open_store
from mlops.store.identity import InstallationRow, read_installation
from mlops.store.migrations import MIN_READER


def read(store: Store) -> InstallationRow:
    with store.read() as connection:
        return read_installation(connection)


def test_a_new_store_has_an_id_and_no_key_yet(store: Store) -> None:
    row = read(store)
    assert (len(row.uuid), row.key_fingerprints, row.min_reader) == (36, (), MIN_READER)


def test_every_machine_on_one_store_reads_the_same_id(store: Store, url: str) -> None:
    with closing(open_store(url)) as other:
        assert read(other) == read(store)


def test_two_stores_have_two_ids(store: Store, empty_url: str) -> None:
    with closing(open_store(empty_url)) as other:
        assert read(other).uuid != read(store).uuid
