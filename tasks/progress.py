"""Progress of long work where people look: a bar in a terminal, an artifact in the Prefect UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

ARTIFACT_EVERY_SECONDS = 2.0


class Report(Protocol):
    """Told what is being done, how much is done and how much there is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def shown_progress(title: str) -> Iterator[Report]:
    """A report that draws itself; without a terminal each trial prints one line.

    What stands before the first comma of what is reported names the trial.
    """
    console = Console(stderr=True)
    with _terminal(console) as bar:
        line = bar.add_task(title, total=None) if console.is_terminal else None
        artifact = _Artifact(title)
        stages: set[str] = set()

        def report(what: str, done: int, total: int) -> None:
            text = f"{title}: {what}"
            if line is not None:
                bar.update(TaskID(line), description=text, completed=done, total=total)
            elif (stage := what.partition(",")[0]) not in stages:
                console.print(f"{title}: {stage}", highlight=False)
                stages.add(stage)
            artifact.update(text, done, total)

        yield report
        artifact.finish()


@contextmanager
def _terminal(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield bar


class _Artifact:
    """A Prefect progress artifact, refreshed rarely; nothing outside a run."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.identity: UUID | None = None
        self.fresh_until = 0.0
        if FlowRunContext.get() or TaskRunContext.get():
            self.identity = cast("UUID", create_progress_artifact(0.0, description=title))

    def update(self, text: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.identity is None or now < self.fresh_until:
            return
        self.fresh_until = now + ARTIFACT_EVERY_SECONDS
        update_progress_artifact(self.identity, 100.0 * done / max(1, total), description=text)

    def finish(self) -> None:
        if self.identity is not None:
            update_progress_artifact(self.identity, 100.0, description=f"{self.title}: done")
