"""Pages of versions hold each version once, newest first, whatever is registered meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from mlops.store import ModelVersion, Status, Store
from mlops.store.pages import Page
from mlops.store.version_pages import VersionSummary, list_version_page

from .conftest import NOW, SERVICE

Add = Callable[..., ModelVersion]
HOUR = timedelta(hours=1)


def ids(page: Page[VersionSummary]) -> list[str]:
    return [row.model_id for row in page.rows]


def read_all(store: Store, limit: int, **words: object) -> list[list[str]]:
    """The ids of each page until the last."""
    pages, after = [], None
    while True:
        page = list_version_page(store, limit=limit, after=after, **words)  # type: ignore[arg-type]
        pages.append(ids(page))
        if page.next is None:
            return pages
        after = page.next


def test_pages_go_on_where_the_last_one_ended_and_the_last_says_so(store: Store, add: Add) -> None:
    for number in range(1, 6):
        add(f"v{number}", number, created_at=NOW + number * HOUR)
    assert read_all(store, 2) == [["v5", "v4"], ["v3", "v2"], ["v1"]]
    assert read_all(store, 5) == [["v5", "v4", "v3", "v2", "v1"]]


def test_versions_of_one_moment_come_once_each(store: Store, add: Add) -> None:
    for number in range(1, 6):
        add(f"v{number}", number)
    assert read_all(store, 2) == [["v5", "v4"], ["v3", "v2"], ["v1"]]


def test_a_version_registered_meanwhile_neither_repeats_nor_hides_another(
    store: Store, add: Add
) -> None:
    add("a", 1)
    add("b", 2, created_at=NOW + HOUR)
    first = list_version_page(store, limit=1)
    add("c", 3, created_at=NOW + 2 * HOUR)
    second = list_version_page(store, limit=1, after=first.next)
    assert (ids(first), ids(second), second.next) == (["b"], ["a"], None)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({"model_type": "lstm"}, ["b"]),
        ({"symbol": "ETH/USD"}, ["c"]),
        ({"status": Status.REFUSED}, ["b"]),
        ({"service": SERVICE, "status": Status.DEPLOYED}, ["a"]),
        ({"model_type": "lstm", "status": Status.DEPLOYED}, []),
    ],
)
def test_a_page_holds_the_versions_that_match_all_words(
    store: Store, add: Add, words: dict[str, object], found: list[str]
) -> None:
    add("a", 1)
    add("b", 2, model_type="lstm", status=Status.REFUSED)
    add("c", 3, service="sample.eth-usd.1h.volatility.24", symbol="eth/usd")
    assert read_all(store, 10, **words) == [found]


def test_a_page_reads_neither_report_nor_notes(store: Store, add: Add) -> None:
    add(report={"passed": True}, notes={"n": 1}, metrics={"mse": 0.25})
    said: list[str] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *call: said.append(call[2]))
    (row,) = list_version_page(store, limit=1).rows
    assert row.metrics == {"mse": 0.25}
    assert [text for text in said if "report" in text or "notes" in text] == []
    assert any("created_at" in text for text in said)
