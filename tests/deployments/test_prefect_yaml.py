"""What `prefect deploy --all` reads agrees with the code it names."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema

from deployments.setup import WORK_POOL
from mlops.registry.mandate import MANUAL
from mlops.settings import Settings
from mlops.training.plan import ModelType

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {one["name"]: one for one in CONFIG["deployments"]}


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
    assert {name for name, one in known.items() if one.default is one.empty} <= set(given)
    flow.validate_parameters(given)


def test_a_schedule_names_its_zone_and_itself(deployment: dict[str, Any]) -> None:
    for schedule in deployment["schedules"]:
        cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert len(cron.cron.split()) == 5
        assert re.fullmatch(r"[a-z0-9-]+", schedule["slug"])


def test_a_scheduled_training_spends_the_yearly_budget(deployment: dict[str, Any]) -> None:
    assert deployment["parameters"]["reason"] != MANUAL


def test_it_runs_in_the_pool_that_setup_makes(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] == WORK_POOL


def test_it_queues_no_more_than_the_default_of_trainings(deployment: dict[str, Any]) -> None:
    default = Settings.model_fields["max_concurrent_training_jobs"].default
    assert deployment["concurrency_limit"]["limit"] == default
    assert deployment["concurrency_limit"]["collision_strategy"] == "ENQUEUE"


def test_the_working_directory_is_the_one_make_deploy_sets() -> None:
    (step,) = CONFIG["pull"]
    directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert directory == "{{ $MLOPS_PROJECT_DIR }}"
    assert 'MLOPS_PROJECT_DIR="$(CURDIR)"' in (ROOT / "Makefile").read_text()


def test_the_form_people_fill_in_offers_the_choices(deployment: dict[str, Any]) -> None:
    shown = parameter_schema(flow_of(deployment).fn).model_dump()
    assert set(shown["definitions"]["ModelType"]["enum"]) == set(ModelType)
    described = shown["definitions"]["TrainingConfig"]["properties"]
    missing = [name for name, one in described.items() if not one.get("description")]
    assert missing == []
