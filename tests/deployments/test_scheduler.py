"""What people write becomes a Prefect schedule with known dates; what is wrong is named."""

from __future__ import annotations

import ast
import asyncio
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.schemas import schedules as server
from prefect.settings import PREFECT_API_URL, temporary_settings

import deployments
from deployments import ModelScheduler, ScheduleType, scheduler
from deployments.scheduler import JOB_ID, TEMPLATE
from deployments.schedules import make_schedule
from flows.train import train
from mlops.errors import JobNotFound, MlopsError, ScheduleError
from mlops.manager import MLOpsManager
from mlops.settings import Settings

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


def dates(kind: str, config: dict[str, Any], start: datetime, n: int) -> list[datetime]:
    """What the server makes of a schedule from ``start`` on."""
    schedule = make_schedule(kind, config)
    known = server.CronSchedule if isinstance(schedule, CronSchedule) else server.RRuleSchedule
    found = asyncio.run(known.model_validate(schedule.model_dump()).get_dates(n=n, start=start))
    return [one.astimezone(UTC) for one in found]


def utc(zone: str, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2027, month, day, hour, tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize(
    ("zone", "day", "time", "expected"),
    [
        # Skipped: as if the clocks had not changed yet, which is an hour earlier on the wall.
        (BERLIN, (3, 28), (2, 30), "00:30"),
        (NEW_YORK, (3, 14), (2, 30), "06:30"),
        # Before and after the change.
        (BERLIN, (3, 28), (1, 30), "00:30"),
        (BERLIN, (3, 28), (3, 0), "01:00"),
        (NEW_YORK, (3, 14), (3, 0), "07:00"),
        # Occurs twice: the first counts.
        (BERLIN, (10, 31), (2, 30), "00:30"),
        (NEW_YORK, (11, 7), (1, 30), "05:30"),
        (BERLIN, (10, 31), (3, 0), "02:00"),
        (NEW_YORK, (11, 7), (2, 30), "07:30"),
    ],
)
@pytest.mark.parametrize("by_rule", [False, True])
def test_a_daily_job_runs_once_on_the_days_when_clocks_change(
    zone: str, day: tuple[int, int], time: tuple[int, int], expected: str, by_rule: bool
) -> None:
    config = {"hour": time[0], "minute": time[1], "timezone": zone}
    end = utc(zone, *day, 12)
    start = end - timedelta(days=1)
    if by_rule:
        # What a month's 29th and 30th are made of follows the same rules.
        rule = server.RRuleSchedule(
            rrule=f"FREQ=DAILY;BYHOUR={time[0]};BYMINUTE={time[1]};BYSECOND=0", timezone=zone
        )
        found = [one.astimezone(UTC) for one in asyncio.run(rule.get_dates(n=3, start=start))]
    else:
        found = dates("daily", config, start, 3)
    (on_the_day,) = [one for one in found if start < one < end]
    assert on_the_day.strftime("%H:%M") == expected


@pytest.mark.parametrize(
    ("zone", "month", "day"),
    [(BERLIN, 3, 28), (BERLIN, 10, 31), (NEW_YORK, 3, 14), (NEW_YORK, 11, 7)],
)
def test_whenever_the_server_looks_it_finds_no_second_time_that_day(
    zone: str, month: int, day: int
) -> None:
    """It looks every minute; runs with one date are one run."""
    config = {"hour": 2, "minute": 30, "timezone": zone}
    begin = utc(zone, month, day)
    looks = [begin + timedelta(minutes=5 * step) for step in range(-12, 12 * 6)]
    seen = {one for look in looks for one in dates("daily", config, look, 1)}
    assert len([one for one in seen if begin <= one < begin + timedelta(hours=22)]) == 1


@pytest.mark.parametrize(
    ("asked", "days"),
    [
        (31, [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]),
        ("last", [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]),
        (30, [30, 29, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30]),
        (29, [29] * 12),
        (28, [28] * 12),
    ],
)
def test_each_month_of_a_leap_year_has_one_run(asked: int | str, days: list[int]) -> None:
    config = {"day_of_month": asked, "hour": 2, "timezone": BERLIN}
    found = dates("monthly", config, datetime(2028, 1, 1, tzinfo=UTC), 12)
    local = [one.astimezone(ZoneInfo(BERLIN)) for one in found]
    assert [one.date() for one in local] == [
        date(2028, month, day) for month, day in enumerate(days, start=1)
    ]
    assert {one.strftime("%H:%M") for one in local} == {"02:00"}


@pytest.mark.parametrize(("asked", "day"), [(29, 28), (30, 28), (31, 28)])
def test_a_common_february_ends_on_the_28th(asked: int, day: int) -> None:
    (found,) = dates("monthly", {"day_of_month": asked}, datetime(2027, 2, 2, tzinfo=UTC), 1)
    assert (found.month, found.day) == (2, day)


@pytest.mark.parametrize(
    ("kind", "config", "first", "second"),
    [
        ("hourly", {"minute": 5}, "01-01 00:05", "01-01 01:05"),
        ("daily", {}, "01-01 02:00", "01-02 02:00"),
        ("weekly", {}, "01-03 02:00", "01-10 02:00"),
        ("weekly", {"day_of_week": "Sun", "hour": 4}, "01-02 04:00", "01-09 04:00"),
        ("monthly", {}, "01-01 02:00", "02-01 02:00"),
        ("cron", {"cron": "15 6 * * 1-5"}, "01-03 06:15", "01-04 06:15"),
    ],
)
def test_what_is_left_out_is_two_in_the_morning_utc_monday_the_first(
    kind: str, config: dict[str, Any], first: str, second: str
) -> None:
    """From 1 January 2028, a Saturday."""
    found = dates(kind, config, datetime(2028, 1, 1, tzinfo=UTC), 2)
    assert [one.strftime("%m-%d %H:%M") for one in found] == [first, second]


def adding(**changes: Any) -> str:
    given: dict[str, Any] = {
        "model_type": "lstm",
        "symbol": "BTC/USDT",
        "schedule_type": ScheduleType.DAILY,
        "schedule_config": {"hour": 2, "minute": 0},
        "training_config": {"data_window_days": 30, "validation_split": 0.2},
        "deployment_config": {"auto_deploy": True, "deployment_strategy": "blue_green"},
        **changes,
    }
    return ModelScheduler(SETTINGS, MLOpsManager(SETTINGS)).add_training_job(**given)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule_config": {"hour": 25}}, "hour 25"),
        ({"schedule_config": {"hour": "2"}}, "hour '2'"),
        ({"schedule_config": {"minute": -1}}, "minute -1"),
        ({"schedule_config": {"hours": 2}}, "hours.*may have hour, minute, timezone"),
        ({"schedule_config": {"timezone": "Berlin"}}, "timezone 'Berlin'.*Europe/Berlin"),
        ({"schedule_config": {"day_of_week": "monday"}}, "day_of_week"),
        ({"schedule_type": "weekly", "schedule_config": {"day_of_week": "funday"}}, "friday"),
        ({"schedule_type": "weekly", "schedule_config": {"day_of_week": 0}}, "write a name"),
        ({"schedule_type": "monthly", "schedule_config": {"day_of_month": 32}}, "day_of_month 32"),
        ({"schedule_type": "monthly", "schedule_config": {"day_of_month": 0}}, "day_of_month 0"),
        ({"schedule_type": "cron", "schedule_config": {"cron": "0 2 * *"}}, "five fields"),
        ({"schedule_type": "cron", "schedule_config": {"cron": "0 25 * * *"}}, "Invalid cron"),
        ({"schedule_type": "cron", "schedule_config": {}}, "cron"),
        ({"schedule_type": "yearly"}, "'yearly'.*daily, weekly, monthly"),
        ({"schedule_config": "02:00"}, "schedule_config"),
        ({"model_type": "gru"}, "'gru'.*lstm, transformer"),
        ({"symbol": "BTC USDT"}, "BTC USDT"),
        ({"target": "volume"}, "'volume'"),
        ({"horizon": 0}, "horizon 0"),
        ({"training_config": {"epochs": 3}}, "epochs.*data_window_days"),
        ({"training_config": {"validation_split": 0.7}}, "validation_split 0.7"),
        ({"deployment_config": {"deployment_strategy": "purple"}}, "purple"),
        ({"deployment_config": {"shares": (0.5, 0.1)}}, "deployment_config"),
    ],
)
def test_what_is_wrong_is_named_before_a_server_is_asked(
    changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "open_jobs", lambda: pytest.fail("a server was asked"))
    with pytest.raises(MlopsError, match=f"(?s){named}"):
        adding(**changes)


def test_a_job_calls_the_flow_with_what_it_takes_and_with_the_whole_service() -> None:
    parameters = scheduler.make_parameters(
        SETTINGS.service("BTC/USDT"),
        scheduler.ModelType.LSTM,
        scheduler.TrainingConfig(data_window_days=30),
        scheduler.DeploymentConfig(auto_deploy=True),
    )
    assert parameters.keys() == {
        *("symbol", "venue", "timeframe", "target", "horizon"),
        *("model_type", "training", "deployment_config", "reason"),
    }
    assert parameters["training"] == {"data_window_days": 30}
    called = train.validate_parameters(parameters)
    assert (called["venue"], called["horizon"]) == ("binance", 24)


def test_the_same_service_model_and_schedule_are_the_same_job() -> None:
    def job_id(hour: int, **parts: Any) -> str:
        schedule = make_schedule("daily", {"hour": hour})
        service = SETTINGS.service("BTC/USDT", **parts)
        return scheduler._job_id(service, scheduler.ModelType.LSTM, ScheduleType.DAILY, schedule)

    assert job_id(2) == job_id(2)
    assert JOB_ID.fullmatch(job_id(2))
    assert job_id(2).startswith("lstm.binance.btc-usdt.1h.volatility.24.daily.")
    assert len({job_id(2), job_id(3), job_id(2, horizon=12)}) == 3


@pytest.mark.parametrize(
    ("venue", "symbol"),
    [("binance", "BTC/USDT:USDT"), ("my_venue-2", "1000SHIB/USDT"), ("v" * 20, f"{'A' * 30}/USD")],
)
def test_prefect_takes_the_name_of_every_job(venue: str, symbol: str) -> None:
    schedule = make_schedule("cron", {"cron": "*/5 * * * 1-5"})
    service = SETTINGS.service(symbol, venue=venue)
    job_id = scheduler._job_id(service, scheduler.ModelType.LINEAR, ScheduleType.CRON, schedule)
    assert JOB_ID.fullmatch(job_id)
    created = DeploymentCreate(name=job_id, flow_id=uuid4())
    assert created.name == job_id


@pytest.mark.parametrize(
    ("url", "named"),
    [(None, "PREFECT_API_URL is empty"), ("http://127.0.0.1:9/api", "does not answer")],
)
def test_without_a_server_it_says_what_to_start(url: str | None, named: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ScheduleError, match=named):
        adding()


def as_the_docs_say(manager: MLOpsManager) -> str:
    """Run the lines of the page on operations as a notebook cell; the job they add."""
    cells = re.findall(r"```py\n(.*?)```", OPERATIONS.read_text(), flags=re.DOTALL)
    (cell,) = (cell for cell in cells if "add_training_job" in cell)
    names: dict[str, Any] = {"mlops_config": SETTINGS, "manager": manager}
    code = compile(cell, "operations.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    asyncio.run(eval(code, names))
    return str(names["job_id"])


def test_a_job_lives_in_the_server_until_it_is_removed(prefect_server: None) -> None:
    """The whole life, on the server that the quick tests share; `test_schedules` is thorough."""
    jobs = ModelScheduler(SETTINGS, MLOpsManager(SETTINGS))
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(train)
        deployment = client.create_deployment(flow_id=flow_id, name=TEMPLATE.partition("/")[2])
        job_id = as_the_docs_say(jobs.manager)
        assert job_id == adding()
        first = jobs.job_status(job_id).next_run
        assert first is not None
        assert first.strftime("%H:%M") == "02:00"
        jobs.pause_training_job(job_id)
        assert jobs.job_status(job_id).next_run is None
        jobs.resume_training_job(job_id)
        run = client.read_flow_run(UUID(jobs.run_now(job_id)))
        assert run.parameters == {**run.parameters, "symbol": "BTC/USDT", "reason": "schedule"}
        assert [one.active for one in jobs.list_jobs()] == [True]
        jobs.remove_training_job(job_id)
        with pytest.raises(JobNotFound, match="none yet"):
            jobs.job_history(job_id)
        client.delete_deployment(deployment)


def test_the_names_people_import_are_here() -> None:
    assert dir(deployments) == sorted(deployments.__all__)
    assert {name for name in dir(deployments) if getattr(deployments, name) is None} == set()
