"""What `prefect deploy --all` reads agrees with the code it names."""

from __future__ import annotations

import inspect
import re
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema

from deployments.setup import WORK_POOL
from flows.reconcile import CARRY_S
from mlops.registry.mandate import MANUAL
from mlops.rollout.plan import Strategy
from mlops.settings import Settings
from mlops.training.plan import ModelType

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {one["name"]: one for one in CONFIG["deployments"]}
ASKED_OF_THE_CALLER = {"default": {"model_id"}, "on-event": {"service"}}
"""Parameters that a run cannot do without and no deployment can know: a person or event says."""

TRAINING = "daily"


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


def test_a_scheduled_training_spends_the_yearly_budget() -> None:
    assert DEPLOYMENTS[TRAINING]["parameters"]["reason"] != MANUAL


def test_it_runs_in_the_pool_that_setup_makes(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] == WORK_POOL


def test_it_queues_no_more_than_the_default_of_trainings() -> None:
    default = Settings.model_fields["max_concurrent_training_jobs"].default
    limit = DEPLOYMENTS[TRAINING]["concurrency_limit"]
    assert limit == {"limit": default, "collision_strategy": "ENQUEUE"}


def test_the_working_directory_is_the_one_make_deploy_sets() -> None:
    (step,) = CONFIG["pull"]
    directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert directory == "{{ $MLOPS_PROJECT_DIR }}"
    assert 'MLOPS_PROJECT_DIR="$(CURDIR)"' in (ROOT / "Makefile").read_text()


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
