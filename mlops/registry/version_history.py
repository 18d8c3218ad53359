"""Explains a version, and traces the rows that led to it and followed from it.

`explain` tells verdict, data, code and history of one version. `trace` follows the rows

    monitor run (look) -> trigger -> claimed run -> version and its gates -> rollout -> route

Each row names the row before it, so that the question why a version is live has one answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlops.data.finding_texts import Finding, describe_findings
from mlops.data.findings import Findings
from mlops.errors import StoreError
from mlops.registry.connection import Registry
from mlops.store import (
    AuditEntry,
    LivePeriod,
    ModelVersion,
    Phase,
    Rollout,
    Status,
    Store,
    get_route,
    get_version,
    list_audit_entries,
    list_events,
    list_live_periods,
)
from mlops.store.ab_tests import list_tests
from mlops.store.judgements import EvidenceKind, JudgementBasis, is_from_elsewhere
from mlops.store.ledger import count_ab_tests
from mlops.store.monitor_runs import CheckRow, get_check
from mlops.store.rollouts import newest_rollout_of
from mlops.store.triggers import TriggerRow, get_trigger
from mlops.validation.report import GateReport


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a version has its status; print it, or read its fields.

    Args:
        verdict: Status and why, in one sentence.
        reasons: One sentence for each gate that decided.
        report: None where no gate judged the version.
        tests: The A/B tests that it took part in, oldest first, a sentence each.
        findings: What was found of the bars it was trained on; None where nobody knows.
        history: Who did what to the version, oldest first.
        basis: What the verdict on a version from elsewhere rests on; None for others.
    """

    version: ModelVersion
    verdict: str
    reasons: tuple[str, ...]
    report: GateReport | None
    history: tuple[AuditEntry, ...]
    findings: Findings | None = None
    tests: tuple[str, ...] = ()
    basis: JudgementBasis | None = None

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
            *self._describe_basis(),
            *(f"  bars    {found.text}" for found in self._told()),
            f"  code    {version.code_version}",
            f"  bundle  {version.digest[:12]}, recipe {version.recipe_digest[:12]}",
            *(f"  test    {text}" for text in self.tests),
            *(f"  {e.at:%Y-%m-%d %H:%M} {e.actor}: {e.action} {e.reason}" for e in self.history),
        ]
        return "\n".join([*lines, str(self.report)] if self.report else lines)

    def _describe_basis(self) -> tuple[str, ...]:
        basis = self.basis
        if basis is None:
            return ()
        return (
            f"  judged  {basis.text}",
            f"  from    {basis.origin}, {basis.bars_digest[:12]}",
            f"  ledger  study {basis.place} of the service, {basis.compared} compared on its bars",
        )

    def _told(self) -> tuple[Finding, ...]:
        return () if self.findings is None else describe_findings(self.findings)


def explain(registry: Registry, model_id: str) -> Explanation:
    """Explain why a version passed or was refused, on what data and by which code.

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
        findings=_read_findings(version),
        tests=_describe_tests(registry.store, version),
        basis=JudgementBasis.of(version),
    )


def _describe_tests(store: Store, version: ModelVersion) -> tuple[str, ...]:
    """What each A/B test found of a version, and how many the service had within a year of it."""
    texts = []
    for test in reversed(list_tests(store, service=version.service)):
        if version.model_id not in (test.champion_id, test.challenger_id):
            continue
        was = "champion" if test.champion_id == version.model_id else "challenger"
        other = test.challenger_id if was == "champion" else test.champion_id
        ended = "running" if test.verdict is None else f"{test.verdict}. {test.verdict_text}"
        number = count_ab_tests(store, version.service, until=test.since_bar)
        texts.append(
            f"{test.id} as {was} with {other}: {ended} (test {number} of the service within a "
            f"year, each errs with a chance of {test.alpha:.1%})"
        )
    return tuple(texts)


def _read_findings(version: ModelVersion) -> Findings | None:
    """What its training noted of its bars; the notes of claims are the caller's own."""
    noted = None if is_from_elsewhere(version) else version.notes.get("bars")
    return None if noted is None else Findings.from_dict(noted)


def _verdict(version: ModelVersion, report: GateReport | None, *, baseline: bool) -> str:
    if baseline:
        return f"{version.status}; the service's declared baseline, which needs no gate"
    if report is None:
        claims = "its figures are the caller's claims, " if version.claims_only else ""
        return f"{version.status}; {claims}no gate judged it"
    said = f"{version.status}; it {'passed' if report.passed else 'was refused by'} the gates"
    basis = JudgementBasis.of(version)
    if basis is None:
        return said
    if not basis.own_bars:
        return f"{said} on bars that its caller gave, which leaves it {version.status}"
    grounds = "the caller's word" if basis.kind is EvidenceKind.WORD else "its own record"
    return f"{said} on {grounds}"


def _reasons(version: ModelVersion, report: GateReport | None) -> tuple[str, ...]:
    if report is None:
        claimed = version.claims_only and version.status is Status.REFUSED
        how = (
            "it came with claims instead of evidence; judge_model(model_id, trained_until=...) "
            "judges it on later bars, a shadow collects evidence"
        )
        return (how,) if claimed else ()
    if report.passed:
        return tuple(f"{r.name} {r.title}: {r.reason}" for r in report.results if r.passed)
    return report.reasons


@dataclass(frozen=True, slots=True)
class Lineage:
    """The rows that led to a version and followed from it.

    Args:
        looks: The monitor runs that raised its triggers.
        triggers: Empty where a person or a schedule requested the training.
        rollout: The version's newest rollout; None where it had none.
        live_period: What that rollout made live; None where it was not promoted.
    """

    looks: tuple[CheckRow, ...]
    triggers: tuple[TriggerRow, ...]
    version: ModelVersion
    rollout: Rollout | None
    live_period: LivePeriod | None

    @property
    def flow_run(self) -> str | None:
        """Id of the Prefect run that claimed the triggers; None where there are none."""
        return self.triggers[0].claimed_by if self.triggers else None

    def __str__(self) -> str:
        gates, live = (self.version.report or {}).get("passed"), self.live_period
        lines = [
            *(f"look {look.id} at {look.at:%Y-%m-%d %H:%M}: {look.recommendation}"
              for look in self.looks),
            *(f"trigger {row.id}: {row.cause}, {row.text}" for row in self.triggers),
            *([f"flow run {self.flow_run}"] if self.flow_run else []),
            f"version {self.version.model_id}: gates {'passed' if gates else 'refused it'}",
            *([f"rollout {self.rollout.id}: {self.rollout.phase}, {self.rollout.reason}"]
              if self.rollout else []),
            *([f"live as generation {live.generation} since {live.at:%Y-%m-%d %H:%M}"]
              if live else []),
        ]  # fmt: skip
        return "\n".join(lines)


def trace(store: Store, model_id: str) -> Lineage:
    """Follow a version back to what requested it, and on to what it became.

    Raises:
        VersionNotFound: when there is no such version.
        StoreError: naming the row that is missing or contradicts another.
    """
    version = get_version(store, model_id)
    trigger_ids = version.notes.get("triggers", ())
    triggers = tuple(_get_answered(store, version, trigger_id) for trigger_id in trigger_ids)
    looks: dict[str, CheckRow] = {}
    for trigger in triggers:
        if trigger.verdict is not None:
            look = get_check(store, trigger.verdict)
            if look is None:
                raise StoreError(
                    f"trigger {trigger.id} rests on look {trigger.verdict}, which is gone"
                )
            looks[look.id] = look
    rollout = newest_rollout_of(store, model_id)
    live_period = None if rollout is None else _find_live_period(store, rollout)
    return Lineage(tuple(looks.values()), triggers, version, rollout, live_period)


def _get_answered(store: Store, version: ModelVersion, trigger_id: str) -> TriggerRow:
    """A trigger that the version answered."""
    trigger = get_trigger(store, trigger_id)
    if trigger is None:
        raise StoreError(f"{version.model_id} answers trigger {trigger_id}, which does not exist")
    if trigger.model_id != version.model_id:
        raise StoreError(
            f"{version.model_id} answers trigger {trigger_id}, which was answered by "
            f"{trigger.model_id}"
        )
    if not trigger.claimed_by:
        raise StoreError(f"trigger {trigger_id} was answered without having been claimed")
    return trigger


def _find_live_period(store: Store, rollout: Rollout) -> LivePeriod | None:
    """What a rollout made live, by the route's generation that its promotion wrote."""
    events = list_events(store, rollout.id)
    promoted = next((event for event in events if event.to_phase is Phase.PROMOTED), None)
    if promoted is None:
        return None
    for period in list_live_periods(store, rollout.service):
        if period.generation == promoted.generation and period.champion == rollout.to_version:
            return period
    raise StoreError(
        f"rollout {rollout.id} made {rollout.to_version} champion as generation "
        f"{promoted.generation} of {rollout.service}, of which the route knows nothing"
    )
