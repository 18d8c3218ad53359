"""When a job runs: checks a schedule configuration and makes the Prefect schedule.

Times are local times of the time zone. A daily job runs once a day when clocks change: a time that
occurs twice counts the first time, and a time that is skipped runs as if the clocks had not changed
yet (02:30 becomes 01:30; from Python 3.13 on, 03:30).

A month without the configured day has its run on its last day.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, TypeVar
from zoneinfo import available_timezones

from prefect.client.schemas.schedules import CronSchedule, RRuleSchedule
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from mlops.errors import ScheduleError

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SHORTEST_MONTH = 28
LAST = 31

Schedule = CronSchedule | RRuleSchedule
Choice = TypeVar("Choice", bound=StrEnum)
Form = TypeVar("Form", bound=BaseModel)


class ScheduleType(StrEnum):
    """How often a job runs."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    CRON = "cron"


def _weekday(value: object) -> str:
    # 0 is Monday to Python and Sunday to cron: only names mean one day.
    names = [name for name in WEEKDAYS if str(value).strip().lower() in (name, name[:3])]
    if not names:
        raise ValueError(f"write a name, {', '.join(WEEKDAYS)} or its first three letters")
    return names[0]


def _day(value: object) -> object:
    return LAST if str(value).strip().lower() == "last" else value


# Cached, because reading them takes a tenth of a second.
_zones = cache(available_timezones)


def _zone(value: str) -> str:
    if value not in _zones():
        raise ValueError("no such time zone; write it like Europe/Berlin or UTC")
    return value


def _cron(value: str) -> str:
    if len(value.split()) != 5:
        raise ValueError("write five fields: minute, hour, day of month, month, day of week")
    return CronSchedule(cron=value).cron


Minute = Annotated[int, Field(strict=True, ge=0, le=59)]
Zone = Annotated[str, AfterValidator(_zone)]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hourly(_Config):
    """Once an hour; it has no time zone, because no hour is skipped or repeated in UTC."""

    minute: Minute = 0

    def schedule(self) -> Schedule:
        return CronSchedule(cron=f"{self.minute} * * * *", timezone="UTC")


class Daily(_Config):
    hour: Annotated[int, Field(strict=True, ge=0, le=23)] = 2
    minute: Minute = 0
    timezone: Zone = "UTC"

    def schedule(self) -> Schedule:
        return self._on("* * *")

    def _on(self, days: str) -> CronSchedule:
        return CronSchedule(cron=f"{self.minute} {self.hour} {days}", timezone=self.timezone)


class Weekly(Daily):
    day_of_week: Annotated[str, BeforeValidator(_weekday)] = "monday"

    def schedule(self) -> Schedule:
        return self._on(f"* * {self.day_of_week[:3]}")


class Monthly(Daily):
    day_of_month: Annotated[
        int, BeforeValidator(_day), Field(strict=True, ge=1, le=LAST, description="or 'last'")
    ] = 1

    def schedule(self) -> Schedule:
        if self.day_of_month <= SHORTEST_MONTH:
            return self._on(f"{self.day_of_month} * *")
        if self.day_of_month == LAST:
            return self._on("L * *")
        # Cron would leave February out; BYSETPOS=-1 takes the last of these days in a month.
        days = ",".join(str(day) for day in range(SHORTEST_MONTH, self.day_of_month + 1))
        return RRuleSchedule(
            rrule=f"FREQ=MONTHLY;BYMONTHDAY={days};BYSETPOS=-1;"
            f"BYHOUR={self.hour};BYMINUTE={self.minute};BYSECOND=0",
            timezone=self.timezone,
        )


class Cron(_Config):
    """Any cron expression.

    An hourly one pauses for two hours where clocks go back, unless its time zone is UTC.
    """

    cron: Annotated[str, AfterValidator(_cron)]
    timezone: Zone = "UTC"

    def schedule(self) -> Schedule:
        return CronSchedule(cron=self.cron, timezone=self.timezone)


CONFIGS: dict[ScheduleType, type[Hourly | Daily | Weekly | Monthly | Cron]] = {
    ScheduleType.HOURLY: Hourly,
    ScheduleType.DAILY: Daily,
    ScheduleType.WEEKLY: Weekly,
    ScheduleType.MONTHLY: Monthly,
    ScheduleType.CRON: Cron,
}


def make_schedule(kind: ScheduleType | str, config: Mapping[str, Any] | None) -> Schedule:
    """The Prefect schedule of a configuration; a time that is left out is 02:00 UTC.

    Raises:
        ScheduleError: naming each field that is wrong.
    """
    model = CONFIGS[parse_choice(ScheduleType, kind, "schedule_type")]
    return parse_form(model, config, "schedule_config").schedule()


def parse_choice(choices: type[Choice], value: str, what: str) -> Choice:
    """The choice of that name; ``what`` names the argument in the message.

    Raises:
        ScheduleError: when there is no such choice.
    """
    try:
        return choices(value)
    except ValueError as error:
        raise ScheduleError(
            f"{what} {value!r} is not one of {', '.join(choices)}; nothing was scheduled"
        ) from error


def parse_form(model: type[Form], given: object, what: str) -> Form:
    """The model made of ``given``; None means all defaults. ``what`` names the argument.

    Raises:
        ScheduleError: naming each field that is wrong.
    """
    try:
        return model.model_validate({} if given is None else given)
    except ValidationError as error:
        wrong = "; ".join(_describe(problem) for problem in error.errors())
        raise ScheduleError(
            f"{what}: {wrong}. It may have {', '.join(model.model_fields)}; nothing was scheduled"
        ) from error


def _describe(problem: ErrorDetails) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field} {problem['input']!r}: {message}".strip()
