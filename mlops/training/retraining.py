"""Claims the triggers of a service for one retraining, and answers them with its version.

The triggers are rows of `mlops.store.triggers`. They are claimed under the service's training
lease, and answered in the transaction that commits the row of the new version.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from mlops.data.file_options import BarsChoice
from mlops.data.market import Market
from mlops.registry.markets import read_market
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import request_digest
from mlops.service import Service
from mlops.store import ModelVersion, Status, Store, get_route, list_versions
from mlops.store.engine import Connection
from mlops.store.leases import Lease
from mlops.store.monitor_runs import last_check_time
from mlops.store.triggers import (
    Answer,
    Claim,
    TriggerLimits,
    answer_triggers,
    claim_triggers,
    postpone_triggers,
)
from mlops.training.refit_policy import refit_policy_for
from mlops.validation.evidence import Thresholds
from mlops.validation.integrity import lacking_bars
from mlops.validation.report import GateReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retraining:
    """Claimed triggers of a service, and the request that is to be made again."""

    claim: Claim
    model_type: ModelType
    config: TrainingConfig

    @property
    def reason(self) -> str:
        """The causes of the triggers, as they are stored with the version."""
        return "+".join(sorted({str(row.cause) for row in self.claim.triggers}))


def claim_retraining(
    store: Store,
    service: str,
    run: str,
    *,
    lease: Lease,
    now: datetime,
    limits: TriggerLimits | None = None,
) -> Retraining | None:
    """Claim the waiting triggers of a service; None where none waits or it is too soon.

    The triggers of a service that no request has trained yet wait until one has: there is no
    request to make again. Where too few bars came to judge a refit by, the triggers are put off
    until enough will have come.

    Args:
        run: Id of the run that will train.
        lease: The service's training lease.
        now: Market time; bars known by then will be trained on.

    Raises:
        LeaseLost: when another training has held the lease.
    """
    last = last_requested(store, service)
    if last is None:
        return None
    model_type = ModelType(last.notes["asked_for"])
    config = TrainingConfig.model_validate({**last.notes["config"], "end": now})
    market = read_market(store, Service.parse(service))
    if market.from_file:
        # A refused request may have tried other bars than those that the service has.
        config = config.model_copy(update=dict(market.choice))
    ready = _refit_testable_at(store, Service.parse(service), request_digest(model_type, config))
    if ready is not None and ready > now:
        if postpone_triggers(store, service, lease=lease, until=ready):
            log.info("service=%s waits until %s for bars to judge a retraining by", service, ready)
        return None
    claim = claim_triggers(store, service, run, lease=lease, at=now, limits=limits)
    return None if claim is None else Retraining(claim, model_type, config)


def _refit_testable_at(store: Store, service: Service, request: str) -> datetime | None:
    """When enough bars will have come to judge a refit by, by the calendar of its market.

    None for a search, which is judged on all bars.
    """
    policy = refit_policy_for(store, service, request=request, reason="trigger", watermark="")
    if policy.since is None:
        return None
    needed = Thresholds().min_test_bars + service.horizon
    return _close_after(read_market(store, service), policy.since, needed)


def _close_after(market: Market, since: datetime, bars: int) -> datetime:
    """When so many more bars of a market will have closed."""
    closed = market.calendar.close_after(pd.Timestamp(since), bars, market.timeframe)
    return closed.to_pydatetime()


def _trained_on(version: ModelVersion) -> Market:
    """The market of the bars that a version was trained on, by its notes."""
    choice = BarsChoice.read(version.notes.get("config") or {})
    return Market.of(Service.parse(version.service), choice)


def market_time(store: Store, service: str, wall: datetime) -> datetime:
    """Market time of a service for a retraining.

    It is ``wall`` where the market keeps the time of the day. Elsewhere it is that of the newest
    look, so that a replayed service is not trained on bars that its monitor has not reached.
    """
    is_live = read_market(store, Service.parse(service)).is_live
    return (None if is_live else last_check_time(store, service)) or wall


def last_requested(store: Store, service: str) -> ModelVersion | None:
    """The champion where a request trained it, else the newest version that a request trained."""
    route = get_route(store, service)
    requested = [
        version for version in list_versions(store, service=service) if "asked_for" in version.notes
    ]
    champions = [version for version in requested if route and version.model_id == route.champion]
    return next(iter([*champions, *requested]), None)


def answer_claim(
    connection: Connection, version: ModelVersion, *, claim: Claim, at: datetime
) -> None:
    """Answer a claim with the version it led to, in the transaction that registers the version.

    A version that was refused because too few bars had come says nothing of the alarm: its
    triggers wait until enough bars have come.

    Raises:
        StoreError: when another training has claimed the triggers since.
    """
    answer, until = Answer.CHALLENGER, None
    if version.status is not Status.CHALLENGER:
        lacking = lacking_bars(GateReport.from_dict(version.report or {}))
        answer = Answer.TOO_EARLY if lacking else Answer.REFUSED
        until = _close_after(_trained_on(version), claim.at, lacking)
    answer_triggers(connection, claim, answer, at=at, model_id=version.model_id, not_before=until)
