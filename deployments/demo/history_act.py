"""The third act of the demonstration: a service in the market break of November 2018.

A model is trained on the bars known on the morning of 14 October 2018, judged and taken live. Then
every hour to the new year is rehearsed: the forecast of the newest bar, outcomes, the look for
drift and lost skill, and the retrainings and rollouts that follow. Nothing is injected: the alarms
are those of the real bars at the usual settings.

It runs in a process of its own, while the first two acts train and serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from flows.deploy import deploy
from flows.retrain import retrain
from flows.train import TrainResult, train
from mlops.data.recent_bars import RecentBars
from mlops.features.dataset import Dataset
from mlops.installation import Installation
from mlops.rehearsal.hours import HourResult, RehearsalClock, hours_between, rehearse
from mlops.reports.history import history_section, mse_change
from mlops.reports.page import HistorySection, Moment
from mlops.rollout.plan import RolloutSettings, Strategy
from mlops.search.config import ModelType, TrainingConfig
from mlops.service import Service
from mlops.store import get_route
from mlops.store.forecasts import Role
from mlops.store.outcomes import read_matched
from mlops.store.triggers import get_trigger
from tasks.context import current_installation
from tasks.monitoring import dataset_of

START = datetime(2018, 10, 14, tzinfo=UTC)

HORIZON = 6
"""Hours. Of 1, 6, 12, 24 and 48 the only one at which a linear model of Bitcoin passed every gate
on the bars known then: at one hour its R2 is 0.31 where 0.5 is required, and from twelve hours on
it is no better than the best naive forecast (G2)."""

FAST_ROLLOUT = RolloutSettings(dwell_s=0.5, bake_s=0.5)
"""Seconds of the wall clock; the rehearsed market has its own."""


@dataclass(slots=True)
class HourlyDatasets:
    """Datasets of the bars known at the clock's time, made once for each service and hour."""

    bars: RecentBars
    clock: RehearsalClock
    kept: dict[str, tuple[datetime, Dataset]] = field(default_factory=dict)

    def __call__(self, service: Service) -> Dataset | None:
        at, dataset = self.kept.get(service.key, (None, None))
        if at != self.clock.now:
            recent = self.bars.load(service)
            if recent is None:
                return None
            dataset = dataset_of(service, recent)
            self.kept[service.key] = (self.clock.now, dataset)
        return dataset


def write_history(symbol: str, console: Console, *, until: datetime, path: Path) -> None:
    """Run the third act, and write its section of the report to ``path`` as JSON."""
    section = rehearse_history(current_installation(), symbol, console, until=until)
    if section is not None:
        path.write_text(section.to_json(), encoding="utf-8")


def rehearse_history(
    installation: Installation, symbol: str, console: Console, *, until: datetime
) -> HistorySection | None:
    """Train as of `START`, and rehearse the hours to ``until``; None where the model is refused."""
    first = train(
        symbol,
        ModelType.LINEAR,
        venue="sample",
        horizon=HORIZON,
        training=TrainingConfig(end=START),
    )
    _print(console, f"as of {START:%Y-%m-%d} {first.model_id} is {_verdict(first)}")
    service, clock = Service.parse(first.service), RehearsalClock(until)
    bars = installation.open_recent_bars(clock, held_bars=None)
    recent = bars.load(service)
    if not first.passed or recent is None or recent.frame.index[-1] < START:
        return None
    clock.now = START
    moments: list[Moment] = []
    with installation.open_rehearsal_replica(clock) as replica:
        deploy(first.model_id, Strategy.BLUE_GREEN, plan=FAST_ROLLOUT)
        hours = rehearse(
            first.service,
            hours_between(START, until),
            store=installation.store,
            clock=clock,
            replica=replica,
            monitor=installation.open_monitor(HourlyDatasets(bars, clock)),
            retrain=_retrain_and_roll_out,
        )
        for hour in hours:
            for moment in _moments(installation, hour):
                _print(console, f"  {moment.at:%Y-%m-%d %H:%M}  {moment.kind:<11}  {moment.text}")
                moments.append(moment)
    scored = read_matched(installation.store, service.key, role=Role.RECORD)
    _print(
        console,
        f"until {until:%Y-%m-%d} {len(scored):,} forecasts met their outcomes: squared error "
        f"{100 * mse_change(scored):+.1f} % of the baseline's on the same bars",
    )
    shown = recent.frame[recent.frame.index >= START]
    return history_section(service, shown, scored, moments)


def _retrain_and_roll_out(service: str, now: datetime) -> TrainResult | None:
    """What an event would start; the rollout is waited for."""
    result = retrain(service, auto_deploy=False, now=now)
    if result is not None and result.passed:
        deploy(result.model_id, Strategy.BLUE_GREEN, plan=FAST_ROLLOUT)
    return result


def _moments(installation: Installation, hour: HourResult[TrainResult]) -> Iterator[Moment]:
    """The alarms of an hour, and the retraining and rollout that they asked for."""
    for trigger_id, _ in hour.look.triggers:
        trigger = get_trigger(installation.store, trigger_id)
        if trigger is not None:
            yield Moment(hour.now, str(trigger.cause), trigger.text)
    if hour.trained is not None:
        model_id = hour.trained.model_id
        yield Moment(hour.now, "retrained", f"{model_id} is {_verdict(hour.trained)}")
        route = get_route(installation.store, hour.trained.service)
        if route is not None and route.champion == model_id:
            text = f"{model_id} serves instead of {route.previous_champion}"
            yield Moment(hour.now, "live", text)
    if hour.returned:
        yield Moment(hour.now, "returned", hour.returned)


def _verdict(result: TrainResult) -> str:
    gates = ", ".join(result.refused_by)
    return f"{result.status} by {gates}" if gates else result.status


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
