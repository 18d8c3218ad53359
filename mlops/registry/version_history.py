"""Why a version is what it is: the verdict, the data, the code, and who did what to it.

[[Where a version came from and what became of it, row by row.

    look (verdict) -> trigger -> claimed run -> version and its gates -> rollout -> route

Each row names the one before it, so that "why is this live" has one answer, years later too.]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlops.errors import StoreError
from mlops.registry.connection import Registry
from mlops.store import (
    AuditEntry,
    CheckRow,
    LivePeriod,
    ModelVersion,
    Phase,
    Rollout,
    Status,
    Store,
    TriggerRow,
    get_check,
    get_route,
    get_trigger,
    get_version,
    list_audit_entries,
    list_events,
    list_live_periods,
    list_rollouts,
)
from mlops.validation.report import GateReport


@dataclass(frozen=True, slots=True)
class Explanation:
    """Print it, or read its parts; ``report`` is None where no gate judged the version."""

    version: ModelVersion
    verdict: str
    reasons: tuple[str, ...]
    report: GateReport | None
    history: tuple[AuditEntry, ...]

    def __str__(self) -> str:
        version = self.version
        until = version.trained_until
        data = (
            f"bars {version.watermark[:12]} up to {until:%Y-%m-%d %H:%M} UTC"
            if until
            else "bars unknown here: it was trained elsewhere"
        )
        lines = [
            f"{version.model_id} ({version.service}): {self.verdict}",
            *(f"  because {reason}" for reason in self.reasons),
            f"  data    {data}",
            f"  code    {version.code_version}",
            f"  bundle  {version.digest[:12]}, recipe {version.recipe_digest[:12]}",
            *(f"  {e.at:%Y-%m-%d %H:%M} {e.actor}: {e.action} {e.reason}" for e in self.history),
        ]
        return "\n".join([*lines, str(self.report)] if self.report else lines)


def explain(registry: Registry, model_id: str) -> Explanation:
    """Why the version passed or was refused, on what data and by which code.

    Raises:
        VersionNotFound: when there is no such version.
    """
    version = get_version(registry.store, model_id)
    report = GateReport.from_dict(version.report) if version.report else None
    route = get_route(registry.store, version.service)
    baseline = route is not None and route.baseline == model_id
    return Explanation(
        version=version,
        verdict=_verdict(version, report, baseline=baseline),
        reasons=_reasons(version, report),
        report=report,
        history=list_audit_entries(registry.store, subject=model_id),
    )


def _verdict(version: ModelVersion, report: GateReport | None, *, baseline: bool) -> str:
    if baseline:
        return f"{version.status}; the service's declared baseline, which needs no gate"
    if version.claims_only:
        return f"{version.status}; its figures are the caller's claims, no gate judged it"
    if report is None:
        return f"{version.status}; no gate judged it"
    return f"{version.status}; it {'passed' if report.passed else 'was refused by'} the gates"


def _reasons(version: ModelVersion, report: GateReport | None) -> tuple[str, ...]:
    if report is None:
        claimed = version.claims_only and version.status is Status.REFUSED
        return ("it came with claims instead of evidence; train it here",) if claimed else ()
    if report.passed:
        return tuple(f"{r.name} {r.title}: {r.reason}" for r in report.results if r.passed)
    return report.reasons


@dataclass(frozen=True, slots=True)
class Lineage:
    """One version's path.

    ``looks`` and ``triggers`` are empty where a person or a schedule asked for it; ``rollout``
    is its newest one, ``reign`` what that made live, None where it has not come to that.
    """

    looks: tuple[CheckRow, ...]
    triggers: tuple[TriggerRow, ...]
    version: ModelVersion
    rollout: Rollout | None
    reign: LivePeriod | None

    @property
    def flow_run(self) -> str | None:
        """The Prefect run that claimed the triggers, None where there are none."""
        return self.triggers[0].claimed_by if self.triggers else None

    def __str__(self) -> str:
        gates = (self.version.report or {}).get("passed")
        lines = [
            *(f"look {one.id} at {one.at:%Y-%m-%d %H:%M}: {one.recommendation}"
              for one in self.looks),
            *(f"trigger {one.id}: {one.cause}, {one.text}" for one in self.triggers),
            *([f"flow run {self.flow_run}"] if self.flow_run else []),
            f"version {self.version.model_id}: gates {'passed' if gates else 'refused it'}",
            *([f"rollout {self.rollout.id}: {self.rollout.phase}, {self.rollout.reason}"]
              if self.rollout else []),
            *([f"live as generation {self.reign.generation} since {self.reign.at:%Y-%m-%d %H:%M}"]
              if self.reign else []),
        ]  # fmt: skip
        return "\n".join(lines)


def trace(store: Store, model_id: str) -> Lineage:
    """Follow a version back to what asked for it, and on to what it became.

    Raises:
        VersionNotFound: when there is no such version.
        StoreError: naming the link that leads nowhere.
    """
    version = get_version(store, model_id)
    triggers = tuple(_trigger(store, version, one) for one in version.notes.get("triggers", ()))
    looks = tuple(_look(store, one) for one in triggers if one.verdict is not None)
    rollouts = [one for one in list_rollouts(store, service=version.service)
                if one.to_version == model_id]  # fmt: skip
    rollout = rollouts[0] if rollouts else None
    reign = None if rollout is None else _reign(store, rollout)
    return Lineage(_distinct(looks), triggers, version, rollout, reign)


def _trigger(store: Store, version: ModelVersion, trigger_id: str) -> TriggerRow:
    found = get_trigger(store, trigger_id)
    if found is None:
        raise StoreError(f"{version.model_id} answers trigger {trigger_id}, which does not exist")
    if found.model_id != version.model_id:
        raise StoreError(
            f"{version.model_id} answers trigger {trigger_id}, which was answered by "
            f"{found.model_id}"
        )
    if not found.claimed_by:
        raise StoreError(f"trigger {trigger_id} was answered without having been claimed")
    return found


def _look(store: Store, trigger: TriggerRow) -> CheckRow:
    assert trigger.verdict is not None
    found = get_check(store, trigger.verdict)
    if found is None:
        raise StoreError(f"trigger {trigger.id} rests on look {trigger.verdict}, which is gone")
    return found


def _reign(store: Store, rollout: Rollout) -> LivePeriod | None:
    """What a rollout made live, by the route's generation that its promotion wrote."""
    promoted = [one for one in list_events(store, rollout.id) if one.to_phase is Phase.PROMOTED]
    if not promoted:
        return None
    generation = promoted[0].generation
    for reign in list_live_periods(store, rollout.service):
        if reign.generation == generation and reign.champion == rollout.to_version:
            return reign
    raise StoreError(
        f"rollout {rollout.id} made {rollout.to_version} champion as generation {generation} of "
        f"{rollout.service}, of which the route knows nothing"
    )


def _distinct(looks: Sequence[CheckRow]) -> tuple[CheckRow, ...]:
    return tuple({one.id: one for one in looks}.values())
