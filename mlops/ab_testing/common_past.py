"""The common past of two versions: bars before a test that both forecast out of sample.

    holdout records in their bundles, then rows of both in the store -> pairs before the test

The declared baseline has no record of its own: every record keeps its forecasts beside the
version's. What is read here ends before the test begins, so it can be summed up once and for all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import numpy as np

from mlops.ab_testing.pair_reading import Arms, no_pairs, pair_rows
from mlops.ab_testing.pairs import Pairs
from mlops.arrays import naive_utc
from mlops.errors import BundleError, GateError
from mlops.models import manifest
from mlops.models.base import UNFITTED
from mlops.models.bundle import Bundle
from mlops.service import Service
from mlops.store import ModelVersion, Route, Store
from mlops.store.outcomes import read_arms
from mlops.validation.forecasts import Forecasts
from mlops.validation.records import read_record

log = logging.getLogger(__name__)

BundleOpener = Callable[[ModelVersion], Bundle]


def read_common_past(
    store: Store,
    arms: Arms,
    *,
    champion: Forecasts | None,
    challenger: Forecasts | None,
    before: datetime,
) -> Pairs:
    """The pairs that closed before a test begins, oldest first; none where nothing is known.

    Args:
        champion, challenger: The kept records of both arms, as `read_kept_records` gives them.
        before: Open of the test's first bar.
    """
    kept = _pair_records(arms.service, champion, challenger)
    rows = read_arms(
        store,
        arms.service.key,
        champion_id=arms.champion_id,
        challenger_id=arms.challenger_id,
        until=before,
    )
    lived = pair_rows(arms.service, rows, arms.counts(rows.bar)).pairs
    return _join(kept, lived, before=naive_utc(before, "us"))


def read_kept_records(
    open_bundle: BundleOpener, route: Route, champion: ModelVersion, challenger: ModelVersion
) -> tuple[Forecasts | None, Forecasts | None]:
    """The records of out-of-sample forecasts that the bundles of both arms keep.

    Of the declared baseline they are the forecasts that the other's record keeps beside its own.
    """
    records = [_open_record(open_bundle, version) for version in (champion, challenger)]
    for own, other in ((0, 1), (1, 0)):
        is_baseline = (champion, challenger)[own].model_id == route.baseline
        other_record = records[other]
        if records[own] is None and is_baseline and other_record is not None:
            records[own] = other_record.of_baseline()
    return records[0], records[1]


def fitted_until(version: ModelVersion) -> datetime | None:
    """When the last label that a version was fitted on became known; None for a naive one."""
    noted = version.notes.get("fitted_until")
    if isinstance(noted, str):
        return datetime.fromisoformat(noted)
    return None if _fits_nothing(version) else version.trained_until


def _fits_nothing(version: ModelVersion) -> bool:
    # A caller may give a model of its own any name.
    return version.model_type in UNFITTED and not version.claims_only


def _open_record(open_bundle: BundleOpener, version: ModelVersion) -> Forecasts | None:
    if _fits_nothing(version):
        return None
    try:
        bundle = open_bundle(version)
        return read_record(bundle.tensors(manifest.REFERENCE), bundle.service)
    except (BundleError, GateError) as error:
        # The test can do without: it then takes its variance from its own pairs.
        log.warning("the record of %s cannot be read: %s", version.model_id, error)
        return None


def _pair_records(
    service: Service, champion: Forecasts | None, challenger: Forecasts | None
) -> Pairs:
    if champion is None or challenger is None:
        return no_pairs(service)
    losses = [record.comparable_losses() for record in (champion, challenger)]
    closed, first, second = np.intersect1d(
        champion.made_at.astype("datetime64[us]"),
        challenger.made_at.astype("datetime64[us]"),
        assume_unique=True,
        return_indices=True,
    )
    own, other = losses[0][first], losses[1][second]
    finite = np.isfinite(own) & np.isfinite(other)
    return Pairs(
        horizon=service.horizon,
        closed_at=closed[finite],
        champion_loss=own[finite],
        challenger_loss=other[finite],
    )


def _join(kept: Pairs, lived: Pairs, *, before: np.datetime64) -> Pairs:
    """The pairs of both that closed by then; of a bar that both have, the kept one."""
    closed = np.concatenate([kept.closed_at, lived.closed_at]).astype("datetime64[us]")
    _, first = np.unique(closed, return_index=True)
    chosen = first[closed[first] <= before]
    return Pairs(
        horizon=kept.horizon,
        closed_at=closed[chosen],
        champion_loss=np.concatenate([kept.champion_loss, lived.champion_loss])[chosen],
        challenger_loss=np.concatenate([kept.challenger_loss, lived.challenger_loss])[chosen],
    )
