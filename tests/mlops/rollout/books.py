"""Whether the rows tell one story: routes, their history, rollouts, their events, the audit."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from mlops.store import Phase, Status, Store
from mlops.store.schema import metadata

from .laws import LEGAL

Rows = list[dict[str, Any]]
Books = dict[str, Rows]

LEASED = ("lease", "replica", "replica_route", "replica_model", "evidence")
"""Tables that tell of the present only."""


def read_books(store: Store) -> Books:
    """Every row there is, by table, at one moment."""
    with store.read() as connection:
        return {
            table.name: [
                dict(row._mapping)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for table in metadata.sorted_tables
        }


def kept(books: Books) -> Books:
    """What is kept for good; the share's end is renewed at each tick."""
    left = {name: rows for name, rows in books.items() if name not in LEASED}
    routes = [{k: v for k, v in row.items() if k != "valid_until"} for row in left["route"]]
    return left | {"route": routes}


def check_books(store: Store) -> Books:
    """Read the books, and find every contradiction in them."""
    books = read_books(store)
    for route in books["route"]:
        _check_route(route, books)
    for rollout in books["rollout"]:
        _check_rollout(rollout, books)
    unfinished = [row for row in books["rollout"] if not Phase(row["phase"]).final]
    slots = [(row["service"], row["phase"] == Phase.WAITING) for row in unfinished]
    assert len(slots) == len(set(slots)), "two rollouts of a service are open, or two wait"
    return books


def _check_route(route: dict[str, Any], books: Books) -> None:
    history = [row for row in books["route_history"] if row["service"] == route["service"]]
    numbers = [row["generation"] for row in history]
    assert numbers == list(range(1, route["generation"] + 1)), "a generation is missing"
    for name in ("champion", "previous_champion", "challenger", "weight_bp"):
        assert history[-1][name] == route[name], f"history does not end with the {name}"
    statuses = {row["model_id"]: row["status"] for row in books["version"]}
    assert statuses[route["champion"]] == Status.DEPLOYED, "the champion is not deployed"
    audited = [
        (row["after"]["generation"], row["action"], row["actor"], row["reason"])
        for row in books["audit"]
        if row["service"] == route["service"] and "generation" in (row["after"] or {})
    ]
    told = [(row["generation"], row["action"], row["actor"], row["reason"]) for row in history]
    assert audited == told, "history and audit differ"


def _check_rollout(rollout: dict[str, Any], books: Books) -> None:
    events = [row for row in books["rollout_event"] if row["rollout_id"] == rollout["id"]]
    assert [row["seq"] for row in events] == list(range(len(events))), "an event is missing"
    before = None
    for event in events:
        assert event["from_phase"] == before, "an event begins where none ended"
        phase = None if before is None else Phase(before)
        assert Phase(event["to_phase"]) in LEGAL.get(phase, frozenset()), "an illegal path"
        before = event["to_phase"]
    assert (before, events[-1]["step"]) == (rollout["phase"], rollout["step"])
    assert (rollout["ended_at"] is not None) == Phase(rollout["phase"]).final
    terms = [row["term"] for row in events]
    assert terms == sorted(terms), "an older controller wrote after a newer one"
    actions = {row["generation"]: row["action"] for row in books["route_history"]}
    brought = [
        event["generation"]
        for event in events
        if actions.get(event["generation"]) == f"rollout_{event['to_phase']}"
    ]
    assert brought == sorted(set(brought)), "two events brought one generation"
    asked = [row for row in books["audit"] if row["action"] == "request_rollout"]
    assert any(row["after"]["rollout"] == rollout["id"] for row in asked), "nobody asked for it"
