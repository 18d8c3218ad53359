"""Why a version is what it is: the verdict, the data, the code, and who did what to it."""

from __future__ import annotations

from dataclasses import dataclass

from mlops.registry.connection import Registry
from mlops.store import AuditEntry, ModelVersion, Status, get_route, get_version, history
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
        history=history(registry.store, subject=model_id),
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
