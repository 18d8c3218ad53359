"""Shows in the Prefect UI what was judged, how a rollout stands, and what was repaired.

[[Progress of long work where people look: a bar in a terminal, an artifact in the Prefect UI.]]
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mlops.registry.tracking import Tracking
from mlops.reports.drift import FOLDER
from mlops.rollout.analysis import ALPHA_WORSE
from mlops.rollout.runner import RolloutProgress
from mlops.service import Service
from mlops.store import ModelVersion, RolloutEvent
from mlops.training.verdict import Judgement
from tasks.context import Project

ARTIFACT_EVERY_SECONDS = 2.0


class ProgressReport(Protocol):
    """Told what is being done, how much is done and how much there is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def show_progress(title: str) -> Iterator[ProgressReport]:
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


MLFLOW_UI = "http://127.0.0.1:5000"
RECONCILE_KEY = "reconcile"
REFRESH_S = 30.0
"""How often a table is drawn anew while a step waits for evidence."""


def training_key(service: Service) -> str:
    """Prefect artifact keys allow lower-case letters, digits and dashes only."""
    return "train-" + _dashed(service.key)


def rollout_key(service: str) -> str:
    """The key of a service's rollouts."""
    return "deploy-" + _dashed(service)


def gate_table(project: Project, version: ModelVersion, judgement: Judgement, card: Path) -> str:
    """The verdict as Markdown, with links to the MLflow run and the model card."""
    run = run_url(project.registry.tracking, version)
    rows = "\n".join(
        f"| {r.name} {r.title} | {r.outcome} | {r.value:.4g} | {r.threshold:.4g} | {r.reason} |"
        for r in judgement.report.results
    )
    return (
        f"# {version.model_id}: {version.status}\n\n"
        f"{version.service} · [MLflow run]({run}) · model card `{card}`\n\n"
        f"| gate | verdict | value | asked | why |\n|---|---|---|---|---|\n{rows}\n"
    )


def run_url(tracking: Tracking, version: ModelVersion) -> str:
    """The run's page: on the configured MLflow server, or on a local `mlflow ui`."""
    host = tracking.uri.rstrip("/") if tracking.uri.startswith("http") else MLFLOW_UI
    return f"{host}/#/experiments/{tracking.experiment_id}/runs/{version.run_id}"


class RolloutReporter:
    """Told how a rollout stands: each arrow is logged and drawn, waiting is drawn now and then."""

    def __init__(self) -> None:
        self.told = 0
        self.shown: list[dict[str, Any]] = []
        self.fresh_until = 0.0

    def __call__(self, seen: RolloutProgress) -> None:
        if not (FlowRunContext.get() or TaskRunContext.get()):
            return
        for event in seen.events[self.told :]:
            get_run_logger().info("%s %s: %s", seen.rollout.id, event.to_phase, event.reason)
        table, now = rollout_table(seen), time.monotonic()
        if len(seen.events) > self.told or (table != self.shown and now >= self.fresh_until):
            self._draw(seen, table)
            self.fresh_until = now + REFRESH_S
        self.told = len(seen.events)

    def _draw(self, seen: RolloutProgress, table: list[dict[str, Any]]) -> None:
        row = seen.rollout
        title = f"{row.to_version} going live by {row.strategy} on {row.service}: {row.phase}"
        try:
            create_table_artifact(key=rollout_key(row.service), table=table, description=title)
            self.shown = table
        except httpx.HTTPError as error:
            # The rollout goes on where nobody can see it.
            get_run_logger().warning("the table could not be shown: %s", error)


def rollout_table(seen: RolloutProgress) -> list[dict[str, Any]]:
    """One row an arrow, with the evidence it was taken on; the last one is how it stands now."""
    rows = [_event_row(event) for event in seen.events]
    if seen.verdict is None:
        return rows
    verdict, last = seen.verdict, seen.events[-1]
    now = {
        "weight_bp": last.detail.get("weight_bp", 0),
        "verdict": verdict.word,
        "e_value": verdict.e_value,
        "upper_bound": verdict.upper_bound,
        "trials": verdict.trials,
        "faults": verdict.faults,
    }
    waiting = {"at": "now", "phase": str(last.to_phase), "step": last.step}
    return [*rows, {**waiting, **_evidence(now), "generation": last.generation, "why": "waiting"}]


def link_drift_report(tracking: Tracking, version: ModelVersion, page: Path, why: str) -> None:
    """Link the page of an alarm: the one in the version's MLflow run, and where it lies here."""
    kept = f"{run_url(tracking, version)}/artifacts/{FOLDER}/{page.name}"
    create_markdown_artifact(
        key="drift-" + _dashed(version.service),
        markdown=f"# {version.model_id}\n\n{why}\n\n[Drift report]({kept}) · here `{page}`\n",
    )


def publish_repairs(changes: tuple[str, ...]) -> None:
    """Show what was put right; nothing where nothing was."""
    if changes:
        lines = "\n".join(f"- {change}" for change in changes)
        create_markdown_artifact(key=RECONCILE_KEY, markdown=f"# Put right\n\n{lines}\n")


def _event_row(event: RolloutEvent) -> dict[str, Any]:
    at = f"{event.at:%Y-%m-%d %H:%M:%S}"
    began = {"at": at, "phase": str(event.to_phase), "step": event.step}
    after = {"generation": event.generation, "why": event.reason}
    return {**began, **_evidence(event.detail), **after}


def _evidence(detail: Mapping[str, Any]) -> dict[str, str]:
    """The figures as people read them; none before the first verdict."""
    if not detail:
        names = ("weight", "samples", "faults", "evidence for worse", "upper bound", "verdict")
        return dict.fromkeys(names, "")
    return {
        "weight": f"{detail['weight_bp'] / 100:g} %",
        "samples": f"{detail['trials']}",
        "faults": f"{detail['faults']}",
        "evidence for worse": f"{detail['e_value']:.3g} of {1 / ALPHA_WORSE:.0f}",
        "upper bound": f"{detail['upper_bound']:.2%}",
        "verdict": str(detail["verdict"]),
    }


def _dashed(key: str) -> str:
    return key.replace(".", "-").replace("_", "-")
