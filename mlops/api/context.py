"""What every route works with: the manager, and how a route calls it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Annotated, Any, ParamSpec, TypeVar

from anyio import from_thread
from fastapi import Depends, Request

from mlops.api.children import Children
from mlops.api.jobs import TrainingJobs
from mlops.api.operations import Operations
from mlops.manager import MLOpsManager

P = ParamSpec("P")
T = TypeVar("T")

LOCAL = "local"
"""Author of every change over HTTP while the API knows no identities: a user of this machine."""


def utc_now() -> datetime:
    """This moment."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class ApiContext:
    """What the routes of one process share.

    Args:
        manager: Does the work of every route.
        open_jobs: Opens the keeper of training jobs; None where this process has none.
        clock: The wall clock.
        children: The processes in which uploads are read, and long work is done.
        is_draining: Whether the process is about to end, and connections should close.
    """

    manager: MLOpsManager
    open_jobs: Callable[[], TrainingJobs] | None = None
    clock: Callable[[], datetime] = utc_now
    children: Children = field(default_factory=Children)
    is_draining: Callable[[], bool] = bool

    @cached_property
    def operations(self) -> Operations:
        """Keeps what the children of this process do not finish in time."""
        return Operations(self.manager.store, longest_s=self.children.limits.wall_s)

    def close(self) -> None:
        """End the children that work."""
        self.children.close()


async def get_context(request: Request) -> ApiContext:
    """The context that the application was built with; async, because others take a thread."""
    context: ApiContext = request.app.state.context
    return context


async def find_actor() -> str:
    """The author of the changes that a request makes."""
    return LOCAL


Context = Annotated[ApiContext, Depends(get_context)]
Actor = Annotated[str, Depends(find_actor)]


def wait_for(call: Callable[P, Coroutine[Any, Any, T]], *given: P.args, **named: P.kwargs) -> T:
    """Run an async method of the manager from a route, which has a thread of its own.

    The thread counts towards the limit of the API's threads as long as the method runs, so that
    requests cannot take all connections of the store.
    """
    return from_thread.run(partial(call, *given, **named))
