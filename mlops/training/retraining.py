"""A retraining that something asked for: who may do it, and what is to be trained.

It is asked for by the rows of `mlops.store.triggers`; what answers them is the row of the new
version, in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import pandas as pd

from mlops.data.calendar import calendar_for
from mlops.data.sources.samples import SAMPLE_VENUE
from mlops.errors import StoreError
from mlops.search.config import ModelType, TrainingConfig
from mlops.search.search_plan import request_digest
from mlops.service import Service
from mlops.store import ModelVersion, Status, Store, get_route, list_versions
from mlops.store.engine import Connection
from mlops.store.leases import renewing
from mlops.store.monitor_runs import last_looked
from mlops.store.triggers import (
    Answer,
    Claim,
    Limits,
    answer_triggers,
    claim_triggers,
    put_off,
    renew_claim,
)
from mlops.training.refit_policy import refit_policy_for
from mlops.validation.evidence import Thresholds
from mlops.validation.integrity import lacking_bars
from mlops.validation.report import GateReport

log = logging.getLogger(__name__)

CLAIM_S = 90.0
"""A training that died is noticed after so long at most."""

RENEW_S = CLAIM_S / 3


@dataclass(frozen=True, slots=True)
class Retraining:
    """The right to train a service, and the request that its last version came from."""

    claim: Claim
    model_type: ModelType
    config: TrainingConfig

    @property
    def reason(self) -> str:
        """The causes, as the version notes them."""
        return "+".join(sorted({str(row.cause) for row in self.claim.triggers}))


def claim_retraining(
    store: Store, service: str, holder: str, *, now: datetime, limits: Limits | None = None
) -> Retraining | None:
    """Take what asks for a retraining; None where nothing does, or it is too soon.

    ``now`` is market time, and what was known then is what will be trained on. A service that
    was never trained by a request has nothing that could be asked for again: its triggers wait
    until it was. Where too few bars came since to judge anything by, nothing is fitted: the
    triggers wait for them.
    """
    last = last_requested(store, service)
    if last is None:
        return None
    model_type = ModelType(last.notes["asked_for"])
    config = TrainingConfig.model_validate({**last.notes["config"], "end": now})
    ready = _judged_from(store, Service.parse(service), request_digest(model_type, config))
    if ready is not None and ready > now:
        if put_off(store, service, until=ready):
            log.info("service=%s waits until %s for bars to judge a retraining by", service, ready)
        return None
    claim = claim_triggers(store, service, holder, at=now, seconds=CLAIM_S, limits=limits)
    return None if claim is None else Retraining(claim, model_type, config)


def _judged_from(store: Store, service: Service, request: str) -> datetime | None:
    """When enough bars will have come to judge a refit by, as its market opens.

    None for a search, which is judged on all bars.
    """
    mandate = refit_policy_for(store, service, request=request, reason="trigger", watermark="")
    if mandate.since is None:
        return None
    needed = Thresholds().min_test_bars + service.horizon
    calendar = calendar_for(service.venue, service.symbol)
    since, years = pd.Timestamp(mandate.since), needed / calendar.bars_per_year(service.timeframe)
    end = since + pd.Timedelta(days=2 * 365 * years + 14)
    last: pd.Timestamp = calendar.expected_opens(since, end, service.timeframe)[needed - 1]
    return (last + service.timeframe.step).to_pydatetime()


def market_time(store: Store, service: str, wall: datetime) -> datetime:
    """The time at which a service is retrained: this moment by the wall clock.

    A replayed market goes by its own clock: there it is the time of the newest look, so that
    nothing is learned from bars that nobody has seen yet.
    """
    replayed = Service.parse(service).venue == SAMPLE_VENUE
    return (last_looked(store, service) if replayed else None) or wall


def last_requested(store: Store, service: str) -> ModelVersion | None:
    """The champion where a request trained it, else the newest version that one did."""
    route = get_route(store, service)
    versions = [one for one in list_versions(store, service=service) if "asked_for" in one.notes]
    champions = [one for one in versions if route and one.model_id == route.champion]
    return next(iter([*champions, *versions]), None)


def answer_claim(
    connection: Connection, version: ModelVersion, *, claim: Claim, at: datetime
) -> None:
    """Answer a claim with the version it led to, inside the transaction that registers it.

    What could not be judged because too few bars had come is tried again when they have: a
    refusal for want of evidence says nothing of the alarm.

    Raises:
        StoreError: when the claim ran out.
    """
    answer, until = Answer.CHALLENGER, None
    if version.status is not Status.CHALLENGER:
        lacking = lacking_bars(GateReport.from_dict(version.report or {}))
        answer = Answer.TOO_EARLY if lacking else Answer.REFUSED
        until = claim.at + lacking * Service.parse(claim.service).timeframe.step
    answer_triggers(connection, claim, answer, at=at, model_id=version.model_id, not_before=until)


@contextmanager
def hold_claim(store: Store, claim: Claim) -> Iterator[None]:
    """Keep a claim for as long as the block works; if it raises, leave its triggers to the next."""
    try:
        with renewing(partial(_renew, store, claim), every_s=RENEW_S):
            yield
    except BaseException:
        _give_back(store, claim)
        raise


def _renew(store: Store, claim: Claim) -> bool:
    try:
        renew_claim(store, claim, seconds=CLAIM_S)
    except StoreError as error:
        # Whether it is lost for good shows at the commit, which is fenced.
        about = {"service": claim.service}
        log.warning("service=%s the claim was not renewed: %s", claim.service, error, extra=about)
    return True


def _give_back(store: Store, claim: Claim) -> None:
    try:
        with store.write() as connection:
            answer_triggers(connection, claim, Answer.FAILED, at=datetime.now(UTC))
    except StoreError as error:
        told = (claim.service, error)
        about = {"service": claim.service}
        log.warning("service=%s the claim runs out by itself: %s", *told, extra=about)
