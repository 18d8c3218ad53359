"""Train one service: load, prove, search, judge, register.

Run it by `prefect deployment run train/daily`, or in a notebook

    from flows.train import train
    train(symbol="BTC/USD", venue="sample", model_type="ensemble")
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from mlops.rollout.plan import DeploymentConfig
from mlops.search.config import ModelType, TrainingConfig
from mlops.service import Service, Target
from mlops.settings import current_settings
from mlops.store.leases import Lease
from mlops.store.triggers import Claim
from mlops.validation.evaluation import Evaluation
from tasks import training as step
from tasks.ab_tests import begin_waiting_tests
from tasks.artifacts import gate_table, training_key
from tasks.concurrency import exclusive_training, training_slot
from tasks.context import current_installation, open_project, run_logs
from tasks.rollout import find_rollout, plan_rollout


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training ended with.

    Args:
        passed: Whether the version passed every hard gate.
        refused_by: Name and title of each gate that refused it.
        evaluation: Of the holdout.
        report: Path of the model card.
        rollout_id: The rollout that the version was registered with; empty where none was wanted.
    """

    service: str
    model_id: str
    version: int
    status: str
    passed: bool
    refused_by: tuple[str, ...]
    evaluation: Evaluation
    report: str
    run_id: str
    rollout_id: str = ""


@flow(name="train", flow_run_name="train-{model_type}-{symbol}", validate_parameters=True)
def train(
    symbol: str,
    model_type: ModelType = ModelType.LSTM,
    *,
    venue: str | None = None,
    timeframe: str | None = None,
    target: Target | None = None,
    horizon: int | None = None,
    training: TrainingConfig | None = None,
    deployment_config: DeploymentConfig | None = None,
    reason: str = "manual",
) -> TrainResult:
    """Train, judge and register one model; a refused one is registered as refused.

    What is left out comes from the settings (`DEFAULT_VENUE`, ...). ``reason`` other than
    ``manual`` refits what was found before instead of searching again. With
    ``deployment_config`` what passed its gates may be rolled out: its registration writes the
    wish, and the controller begins the rollout when no other one of the service is open. With
    ``ab_test`` in it, an A/B test against the champion comes first.
    """
    service = current_settings().service(
        symbol, venue=venue, timeframe=timeframe, target=target, horizon=horizon
    )
    with exclusive_training(service) as lease:
        return run_training(
            service,
            model_type,
            training or TrainingConfig(),
            reason=reason,
            deployment=deployment_config or DeploymentConfig(),
            lease=lease,
        )


def run_training(
    service: Service,
    model_type: ModelType,
    config: TrainingConfig,
    *,
    reason: str,
    deployment: DeploymentConfig,
    lease: Lease,
    answers: Claim | None = None,
) -> TrainResult:
    """Run the steps of a training inside a flow.

    Args:
        lease: The service's training lease.
        answers: The claimed triggers that the registered version answers.
    """
    with run_logs(service=service.key), training_slot():
        project, rollout = open_project(), plan_rollout(deployment)
        step.repair(project)
        with step.training_run(project, service, model_type, config, lease) as run:
            chosen = step.choose(project, service, config)
            bars = step.load(project, service, chosen)
            dataset = step.build_dataset(project, service, bars)
            config = step.begin_service(project, service, chosen, dataset)
            plan = step.plan(
                project, service, dataset, model_type=model_type, config=config, reason=reason
            )
            limited_search = step.search.with_options(timeout_seconds=project.seconds_left)
            study = limited_search(project, plan, run)
            judgement = step.judge(project, plan, study)
            version = step.register(
                project,
                plan,
                study=study,
                judgement=judgement,
                run=run,
                lease=lease,
                answers=answers,
                rollout=rollout,
                test=deployment.ab_test,
            )
            begin_waiting_tests(current_installation())
            card = step.draw_card(
                project, plan, study=study, judgement=judgement, version=version, run=run
            )
    create_markdown_artifact(
        key=training_key(service), markdown=gate_table(project, version, judgement, card)
    )
    return TrainResult(
        service=service.key,
        model_id=version.model_id,
        version=version.mlflow_version,
        status=version.status,
        passed=judgement.report.passed,
        refused_by=tuple(f"{r.name} {r.title}" for r in judgement.report.refused_by),
        evaluation=judgement.evaluation,
        report=str(card),
        run_id=version.run_id,
        rollout_id=find_rollout(version),
    )
