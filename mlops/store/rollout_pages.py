"""Pages of rollouts and of A/B tests, the newest first."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from mlops.store.ab_tests import AbLook, AbTest, build_look, build_test
from mlops.store.engine import Connection, Store
from mlops.store.pages import Page, Position, read_page
from mlops.store.rollouts import Rollout, build_rollout
from mlops.store.schema import ab_look, ab_test, rollout


def list_rollout_page(
    store: Store, *, service: str | None = None, after: Position | None = None, limit: int
) -> Page[Rollout]:
    """A page of the rollouts of a service or of all."""
    query = sa.select(rollout)
    if service is not None:
        query = query.where(rollout.c.service == service)
    with store.read() as connection:
        return read_page(
            connection,
            query,
            build_rollout,
            time=rollout.c.requested_at,
            id_=rollout.c.id,
            after=after,
            limit=limit,
        )


def list_test_page(
    store: Store, *, service: str | None = None, after: Position | None = None, limit: int
) -> Page[tuple[AbTest, AbLook | None]]:
    """A page of the A/B tests of a service or of all, each with its newest look."""
    query = sa.select(ab_test)
    if service is not None:
        query = query.where(ab_test.c.service == service)
    with store.read() as connection:
        page = read_page(
            connection,
            query,
            build_test,
            time=ab_test.c.requested_at,
            id_=ab_test.c.id,
            after=after,
            limit=limit,
        )
        looks = _read_newest_looks(connection, [test.id for test in page.rows])
    return Page(rows=tuple((test, looks.get(test.id)) for test in page.rows), next=page.next)


def _read_newest_looks(connection: Connection, test_ids: Sequence[str]) -> dict[str, AbLook]:
    """The newest look at each of these tests, in one statement."""
    newest = (
        sa.select(ab_look.c.test_id, sa.func.max(ab_look.c.bar).label("bar"))
        .where(ab_look.c.test_id.in_(test_ids))
        .group_by(ab_look.c.test_id)
        .subquery()
    )
    on = sa.and_(ab_look.c.test_id == newest.c.test_id, ab_look.c.bar == newest.c.bar)
    rows = connection.execute(sa.select(ab_look).join(newest, on))
    return {row.test_id: build_look(row) for row in rows}
