"""What `prefect deploy --all` reads agrees with the code it names."""

from __future__ import annotations

import asyncio
import inspect
import re
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.schemas.schedules import CronSchedule as ServerCron
from prefect.utilities.callables import parameter_schema

from deployments import setup
from deployments.scheduler import TEMPLATE
from deployments.setup import JOB_QUEUE, WORK_POOL
from flows.reconcile import CARRY_S
from mlops.rollout.plan import Strategy
from mlops.search.config import ModelType
from mlops.settings import Settings
from mlops.training.refit_policy import MANUAL

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {one["name"]: one for one in CONFIG["deployments"]}
ASKED_OF_THE_CALLER = {
    "default": {"model_id"},
    "on-event": {"service"},
    "scheduled": {"symbol"},
    "start": {"model_a_id", "model_b_id"},
}
"""Parameters that a run cannot do without and no deployment can know: a person or event says."""

TRAINING = "daily"
TRAININGS = ("daily", "weekly", "monthly", "scheduled")


@pytest.fixture(params=sorted(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    return DEPLOYMENTS[request.param]


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    path, _, name = deployment["entrypoint"].partition(":")
    found = getattr(import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


def test_the_entrypoint_is_a_flow(deployment: dict[str, Any]) -> None:
    assert (ROOT / deployment["entrypoint"].partition(":")[0]).is_file()
    assert flow_of(deployment).name


def test_its_parameters_are_accepted_and_complete(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    given, known = deployment["parameters"], inspect.signature(flow.fn).parameters
    assert set(given) <= set(known)
    asked = {name for name, one in known.items() if one.default is one.empty} - set(given)
    assert asked == ASKED_OF_THE_CALLER.get(deployment["name"], set())
    flow.validate_parameters({**dict.fromkeys(asked, "a version"), **given})


def test_a_schedule_names_its_zone_and_itself(deployment: dict[str, Any]) -> None:
    for schedule in deployment["schedules"]:
        cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert len(cron.cron.split()) == 5
        assert re.fullmatch(r"[a-z0-9-]+", schedule["slug"])


def test_only_what_repairs_and_watches_runs_by_itself_from_the_start() -> None:
    active = [
        name
        for name, one in DEPLOYMENTS.items()
        if any(schedule["active"] for schedule in one["schedules"])
    ]
    assert sorted(active) == ["every-5-minutes", "hourly"]


def test_the_next_reconcile_begins_after_this_one_has_ended() -> None:
    (schedule,) = DEPLOYMENTS["every-5-minutes"]["schedules"]
    assert schedule["cron"] == "*/5 * * * *"
    assert CARRY_S < 300
    limit = DEPLOYMENTS["every-5-minutes"]["concurrency_limit"]
    assert limit == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_every_training_deployment_is_looked_at_here() -> None:
    found = [name for name, one in DEPLOYMENTS.items() if flow_of(one).name == "train"]
    assert sorted(found) == sorted(TRAININGS)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_scheduled_training_spends_the_yearly_budget(name: str) -> None:
    assert DEPLOYMENTS[name]["parameters"]["reason"] != MANUAL


@pytest.mark.parametrize(
    ("name", "days"),
    [("daily", [1, 2, 3]), ("weekly", [3, 10, 17]), ("monthly", [1, 32, 61])],
)
def test_a_training_comes_as_often_as_its_name_says(name: str, days: list[int]) -> None:
    """Days since 31 December 2027, a Friday."""
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    eve = datetime(2027, 12, 31, 12, tzinfo=UTC)
    clock = ServerCron(cron=schedule["cron"], timezone=schedule["timezone"])
    found = asyncio.run(clock.get_dates(n=3, start=eve))
    assert [(one.date() - eve.date()).days for one in found] == days
    assert {one.strftime("%H:%M") for one in found} == {"02:00"}


def test_jobs_are_copies_of_a_deployment_without_schedules() -> None:
    flow, _, name = TEMPLATE.partition("/")
    assert DEPLOYMENTS[name]["schedules"] == []
    assert flow_of(DEPLOYMENTS[name]).name == flow
    assert DEPLOYMENTS[name]["work_pool"]["work_queue_name"] == JOB_QUEUE


def test_it_runs_in_the_pool_that_setup_makes(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] == WORK_POOL


@pytest.mark.parametrize("name", ["daily", "weekly", "monthly"])
def test_it_queues_no_more_than_the_default_of_trainings(name: str) -> None:
    default = Settings.model_fields["max_concurrent_training_jobs"].default
    limit = DEPLOYMENTS[name]["concurrency_limit"]
    assert limit == {"limit": default, "collision_strategy": "ENQUEUE"}


def test_the_working_directory_is_the_clone_that_deploys() -> None:
    (step,) = CONFIG["pull"]
    directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert directory == "{{ $MLOPS_PROJECT_DIR }}"
    assert setup.ROOT == ROOT


@pytest.mark.parametrize(
    ("name", "choices", "form"),
    [
        (TRAINING, {"ModelType": ModelType, "Strategy": Strategy}, "TrainingConfig"),
        (TRAINING, {"Strategy": Strategy}, "DeploymentConfig"),
        ("default", {"Strategy": Strategy}, "RolloutSettings"),
    ],
)
def test_the_form_people_fill_in_offers_the_choices(
    name: str, choices: dict[str, type[StrEnum]], form: str
) -> None:
    shown = parameter_schema(flow_of(DEPLOYMENTS[name]).fn).model_dump()["definitions"]
    for known, values in choices.items():
        assert set(shown[known]["enum"]) == set(values)
    described = shown[form]["properties"]
    assert [field for field, one in described.items() if not one.get("description")] == []
