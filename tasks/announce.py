"""Shows a verdict in the Prefect UI."""

from __future__ import annotations

from pathlib import Path

from mlops.registry.judgement import Judgement
from mlops.service import Service
from mlops.store import ModelVersion
from tasks.project import Project

MLFLOW_UI = "http://127.0.0.1:5000"


def artifact_key(service: Service) -> str:
    """Prefect artifact keys allow lower-case letters, digits and dashes only."""
    return "train-" + service.key.replace(".", "-").replace("_", "-")


def gate_table(project: Project, version: ModelVersion, judgement: Judgement, card: Path) -> str:
    """The verdict as Markdown, with links to the MLflow run and the model card."""
    rows = "\n".join(
        f"| {r.name} {r.title} | {r.outcome} | {r.value:.4g} | {r.threshold:.4g} | {r.reason} |"
        for r in judgement.report.results
    )
    return (
        f"# {version.model_id}: {version.status}\n\n"
        f"{version.service} · [MLflow run]({run_url(project, version)}) · model card `{card}`\n\n"
        f"| gate | verdict | value | asked | why |\n|---|---|---|---|---|\n{rows}\n"
    )


def run_url(project: Project, version: ModelVersion) -> str:
    """The run's page: on the configured MLflow server, or on a local `mlflow ui`."""
    tracking = project.registry.tracking
    host = tracking.uri.rstrip("/") if tracking.uri.startswith("http") else MLFLOW_UI
    return f"{host}/#/experiments/{tracking.experiment_id}/runs/{version.run_id}"
