"""What people see in the Prefect UI: progress, verdicts, rollouts, drift reports and repairs."""

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
from mlops.reports.ab_tests import FOLDER as TEST_FOLDER
from mlops.reports.drift import FOLDER
from mlops.rollout.analysis import ALPHA_WORSE
from mlops.rollout.runner import RolloutProgress
from mlops.service import Service
from mlops.settings import current_settings
from mlops.store import ModelVersion, RolloutEvent
from mlops.training.judgement import Judgement
from tasks.context import Project

PROGRESS_EVERY_S = 2.0
TABLE_EVERY_S = 30.0
"""How often the table of a rollout is drawn anew while a step waits for evidence."""

RECONCILE_KEY = "reconcile"


class ProgressReport(Protocol):
    """Called with the current work, how much is done and how much there is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def show_progress(title: str) -> Iterator[ProgressReport]:
    """Draw a bar in a terminal and a Prefect artifact; without a terminal print one line a stage.

    The stage is the text before the first comma of the reported work.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task(title, total=None) if console.is_terminal else None
        artifact = _ProgressArtifact(title)
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


class _ProgressArtifact:
    """A Prefect progress artifact, updated every two seconds at most; outside a run, nothing."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.identity: UUID | None = None
        self.next_update = 0.0
        if _in_a_run():
            self.identity = cast("UUID", create_progress_artifact(0.0, description=title))

    def update(self, text: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.identity is None or now < self.next_update:
            return
        self.next_update = now + PROGRESS_EVERY_S
        update_progress_artifact(self.identity, 100.0 * done / max(1, total), description=text)

    def finish(self) -> None:
        if self.identity is not None:
            update_progress_artifact(self.identity, 100.0, description=f"{self.title}: done")


def training_key(service: Service) -> str:
    """The artifact key of a service's trainings: lower-case letters, digits and dashes only."""
    return "train-" + _dashed(service.key)


def rollout_key(service: str) -> str:
    """The artifact key of a service's rollouts."""
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
    """The run's page: on the configured MLflow server, or on the MLflow UI of this machine."""
    is_server = tracking.uri.startswith("http")
    host = tracking.uri if is_server else current_settings().mlflow_ui_url
    return f"{host.rstrip('/')}/#/experiments/{tracking.experiment_id}/runs/{version.run_id}"


class RolloutReporter:
    """Logs each transition of a rollout, and draws its table; while a step waits, now and then."""

    def __init__(self) -> None:
        self.events_logged = 0
        self.table_shown: list[dict[str, Any]] = []
        self.next_table = 0.0

    def __call__(self, progress: RolloutProgress) -> None:
        if not _in_a_run():
            return
        new_events = progress.events[self.events_logged :]
        for event in new_events:
            get_run_logger().info("%s %s: %s", progress.rollout.id, event.to_phase, event.reason)
        table, now = rollout_table(progress), time.monotonic()
        if new_events or (table != self.table_shown and now >= self.next_table):
            self._publish(progress, table)
            self.next_table = now + TABLE_EVERY_S
        self.events_logged = len(progress.events)

    def _publish(self, progress: RolloutProgress, table: list[dict[str, Any]]) -> None:
        row = progress.rollout
        title = f"{row.to_version} going live by {row.strategy} on {row.service}: {row.phase}"
        try:
            create_table_artifact(key=rollout_key(row.service), table=table, description=title)
            self.table_shown = table
        except httpx.HTTPError as error:
            # The rollout goes on without its table.
            get_run_logger().warning("the table could not be shown: %s", error)


def rollout_table(progress: RolloutProgress) -> list[dict[str, Any]]:
    """One row for each transition, with its evidence; the last row is the current evidence."""
    rows = [_event_row(event) for event in progress.events]
    if progress.verdict is None:
        return rows
    verdict, last = progress.verdict, progress.events[-1]
    evidence = {
        "weight_bp": last.detail.get("weight_bp", 0),
        "verdict": verdict.conclusion,
        "e_value": verdict.e_value,
        "upper_bound": verdict.upper_bound,
        "trials": verdict.trials,
        "faults": verdict.faults,
    }
    why = progress.held or "waiting"
    waiting = {"at": "now", "phase": str(last.to_phase), "step": last.step}
    return [
        *rows,
        {**waiting, **_evidence(evidence), "generation": last.generation, "why": why},
    ]


def link_drift_report(tracking: Tracking, version: ModelVersion, page: Path, why: str) -> None:
    """Link the drift report of an alarm: its copy in the version's MLflow run, and the file.

    Args:
        page: The report's file on this machine.
        why: The alarm's reasons, shown above the links.
    """
    kept = f"{run_url(tracking, version)}/artifacts/{FOLDER}/{page.name}"
    create_markdown_artifact(
        key="drift-" + _dashed(version.service),
        markdown=f"# {version.model_id}\n\n{why}\n\n[Drift report]({kept}) · here `{page}`\n",
    )


def link_test_report(tracking: Tracking, version: ModelVersion, page: Path, text: str) -> None:
    """Link the report of an A/B test: its copy in the challenger's MLflow run, and the file.

    Args:
        page: The report's file on this machine.
        text: The verdict as a sentence, shown above the links.
    """
    kept = f"{run_url(tracking, version)}/artifacts/{TEST_FOLDER}/{page.name}"
    create_markdown_artifact(
        key="ab-test-" + _dashed(version.service),
        markdown=f"# {version.model_id}\n\n{text}\n\n[Report]({kept}) · here `{page}`\n",
    )


def publish_repairs(changes: tuple[str, ...]) -> None:
    """List what was repaired; no artifact where nothing was."""
    if changes:
        lines = "\n".join(f"- {change}" for change in changes)
        create_markdown_artifact(key=RECONCILE_KEY, markdown=f"# Put right\n\n{lines}\n")


def _in_a_run() -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _event_row(event: RolloutEvent) -> dict[str, Any]:
    at = f"{event.at:%Y-%m-%d %H:%M:%S}"
    began = {"at": at, "phase": str(event.to_phase), "step": event.step}
    after = {"generation": event.generation, "why": event.reason}
    return {**began, **_evidence(event.detail), **after}


def _evidence(detail: Mapping[str, Any]) -> dict[str, str]:
    """The figures as text; empty before the first verdict."""
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
    return key.replace(".", "-").replace("_", "-").replace("~", "--")
