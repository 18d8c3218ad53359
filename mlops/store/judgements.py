"""What the verdict on a version from elsewhere rests on, and the change that writes a verdict.

A version that was trained here is judged before it is registered, and its row never changes. One
from elsewhere is registered with claims; a judgement replaces them by a verdict and by figures
that were measured here.

    claims only -> judged on its caller's word -> judged on its own record
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from mlops.errors import RegistryError
from mlops.store import audit
from mlops.store.engine import Store
from mlops.store.schema import Status, version
from mlops.store.versions import ModelVersion, change_status, lock_version

_JUDGED = (Status.REFUSED, Status.CHALLENGER)
"""Statuses that follow from a verdict; a version that was live keeps its status."""


class EvidenceKind(StrEnum):
    """What shows that the judged forecasts were made without their outcomes."""

    WORD = "word"
    """The caller's word that the version was trained on no bar after a time."""
    RECORD = "record"
    """They were made here after its registration, of the newest bar each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgementBasis:
    """What the verdict on a version from elsewhere rests on.

    Args:
        trained_until: The close of the last bar that it was trained on, by its caller's word.
        since: The first of the judged forecasts was made then (UTC); ``until``: the last.
        bars: Number of judged forecasts.
        recorded: How many of them are on record here.
        live: Whether their market kept the time of the day; in a replay all outcomes existed
            before the version was registered.
        own_bars: Whether they are forecasts of the service's own bars.
        origin: Where the bars come from, in words.
        bars_digest: Content hash of the bars.
        study: The judgement's study in the ledger; ``place``: its number there.
        compared: Judged versions and trials that gate G2 compares, this one included.
        claims: The figures that the caller gave.
        judged_at: Wall time (UTC).
    """

    kind: EvidenceKind
    trained_until: datetime | None
    since: datetime
    until: datetime
    bars: int
    recorded: int
    live: bool
    own_bars: bool
    origin: str
    bars_digest: str
    study: str
    place: int
    compared: int
    claims: Mapping[str, Any]
    judged_at: datetime

    @property
    def text(self) -> str:
        """What it rests on, as a part of a sentence."""
        bars = f"{self.bars:,} forecasts of {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d}"
        if self.kind is EvidenceKind.RECORD:
            replayed = "" if self.live else ", in a replayed market"
            return f"{bars}, made here after its registration{replayed}"
        word = f"{bars}, on the caller's word that no bar after "
        return f"{word}{self.trained_until:%Y-%m-%d %H:%M} UTC was trained on"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }
        return values | {"kind": str(self.kind)}

    @classmethod
    def of(cls, row: ModelVersion) -> Self | None:
        """The basis of a version's verdict; None where it was trained here or never judged."""
        if row.judged_on is None:
            return None
        values = dict(row.judged_on)
        for name in ("trained_until", "since", "until", "judged_at"):
            text = values[name]
            values[name] = None if text is None else datetime.fromisoformat(text)
        return cls(**values | {"kind": EvidenceKind(values["kind"])})


def is_from_elsewhere(row: ModelVersion) -> bool:
    """Whether a version was trained elsewhere, judged or not."""
    return row.claims_only or row.judged_on is not None


def find_fitted_until(row: ModelVersion) -> str | None:
    """Until when a version was fitted, ISO 8601; None where nobody knows.

    Of one from elsewhere it is the word on which it was judged.
    """
    if is_from_elsewhere(row):
        basis = JudgementBasis.of(row)
        known = None if basis is None else basis.trained_until
        return None if known is None else known.isoformat()
    noted = row.notes.get("fitted_until")
    return noted if isinstance(noted, str) else None


def needs_person(row: ModelVersion) -> bool:
    """Whether only a person may take a version live, because of what its verdict rests on.

    So it is where all judged outcomes may have existed before the version was registered.
    """
    basis = JudgementBasis.of(row)
    if basis is None:
        return row.claims_only
    return basis.kind is EvidenceKind.WORD or not basis.live


def write_judgement(
    store: Store,
    model_id: str,
    basis: JudgementBasis,
    *,
    passed: bool,
    report: Mapping[str, Any],
    metrics: Mapping[str, Any],
    why: audit.Why,
) -> ModelVersion:
    """Replace a version's claims, or its earlier verdict, by a verdict; returns the new row.

    On the service's own bars the verdict decides between `refused` and `challenger`. On other bars
    the version stays `refused` with its claims, whatever the verdict.

    Raises:
        RegistryError: as `require_judgeable`.
        VersionNotFound: when there is no such version.
    """
    with store.write() as connection:
        before = lock_version(connection, model_id)
        require_judgeable(before, kind=basis.kind, own_bars=basis.own_bars)
        values: dict[str, Any] = {"report": dict(report), "judged_on": basis.to_dict()}
        if basis.own_bars:
            values |= {"claims_only": False, "metrics": dict(metrics)}
        connection.execute(version.update().where(version.c.model_id == model_id).values(**values))
        audit.record(
            connection,
            why,
            action="judge",
            service=before.service,
            subject=model_id,
            before={"claims_only": before.claims_only},
            after={"passed": passed, "basis": basis.text, "study": basis.study},
        )
        wanted = Status.CHALLENGER if passed and basis.own_bars else Status.REFUSED
        if before.status in _JUDGED and before.status is not wanted:
            return change_status(connection, model_id, wanted, why)
        return replace(before, **values)


def require_judgeable(row: ModelVersion, *, kind: EvidenceKind, own_bars: bool) -> None:
    """Refuse to replace a version's verdict by one that rests on less.

    Raises:
        RegistryError: when it was trained here, or has a verdict on its own record or on its
            service's own bars and the new one would rest on the word or on other bars.
    """
    if not is_from_elsewhere(row):
        raise RegistryError(
            f"{row.model_id} was trained and judged here; manager.explain({row.model_id!r}) has "
            "its verdict, manager.evaluate(...) measures it on other bars"
        )
    basis = JudgementBasis.of(row)
    if basis is None or not basis.own_bars:
        return
    if not own_bars:
        raise RegistryError(
            f"{row.model_id} was judged on its service's own bars, and other bars do not replace "
            "that verdict; leave bars out, or measure it on them with manager.evaluate(...)"
        )
    if basis.kind is EvidenceKind.RECORD and kind is EvidenceKind.WORD:
        raise RegistryError(
            f"{row.model_id} was judged on its own record, and a word does not replace that "
            "verdict; judge it again when more of its forecasts are on record"
        )
