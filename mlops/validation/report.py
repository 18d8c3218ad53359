"""The report of the gates: one frozen result for each rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from mlops.json_values import from_json, number, to_json


class Severity(StrEnum):
    """Whether failing a gate refuses the candidate or is only reported."""

    HARD = "hard"
    ADVISORY = "advisory"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The result of one rule.

    Args:
        name: The gate, such as `G2`; ``title`` is the rule within it.
        value: What was measured on ``n`` rows.
        threshold: What was asked.
        reason: Why it passed or failed, in a sentence.
    """

    name: str
    title: str
    value: float
    threshold: float
    passed: bool
    reason: str
    n: int = 0
    severity: Severity = Severity.HARD

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", number(self.value))
        object.__setattr__(self, "threshold", number(self.threshold))
        object.__setattr__(self, "passed", bool(self.passed))

    @property
    def refuses(self) -> bool:
        return not self.passed and self.severity is Severity.HARD

    @property
    def outcome(self) -> str:
        """One word for a table: passed, refused or noted."""
        if self.passed:
            return "passed"
        return "refused" if self.refuses else "noted"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """All results of one judgement, in gate order; every gate is judged even after a refusal.

    Args:
        mode: The threshold mode.
        alpha: The error rate that this judgement spent.

    >>> result = GateResult(
    ...     name="G2", title="skill", value=0.2, threshold=0.05, passed=False, reason="luck"
    ... )
    >>> report = GateReport(
    ...     candidate="lstm", target="return", mode="skill", alpha=0.05, results=(result,)
    ... )
    >>> report.passed, report.reasons
    (False, ('G2 skill: luck',))
    >>> GateReport.from_dict(report.to_dict()) == report
    True
    """

    candidate: str
    target: str
    mode: str
    alpha: float
    results: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no hard gate failed; that allows a shadow test, not production."""
        return not any(result.refuses for result in self.results)

    @property
    def refused_by(self) -> tuple[GateResult, ...]:
        return tuple(result for result in self.results if result.refuses)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each gate that refused; empty where it passed."""
        return tuple(f"{r.name} {r.title}: {r.reason}" for r in self.refused_by)

    def __getitem__(self, title: str) -> GateResult:
        """The result with that title, or the first one of the gate with that name."""
        for result in self.results:
            if title in {result.title, result.name}:
                return result
        raise KeyError(f"no gate {title!r}; known: {', '.join(r.title for r in self.results)}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a number that is not finite becomes null with a flag beside it."""
        values: dict[str, Any] = to_json(asdict(self)) | {"passed": self.passed}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back, exactly."""
        known: dict[str, Any] = from_json(dict(values))
        known.pop("passed", None)
        known["results"] = tuple(
            GateResult(**result | {"severity": Severity(result["severity"])})
            for result in known["results"]
        )
        return cls(**known)

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "refused"
        failed = ", ".join(dict.fromkeys(r.name for r in self.refused_by))
        head = f"{self.candidate} ({self.target}): {verdict}" + (f" by {failed}" if failed else "")
        width = max((len(r.title) for r in self.results), default=0)
        rows = (
            f"  {r.name:<10} {r.title:<{width}}  {r.outcome:<7}  {_cell(r.value)}  "
            f"{_cell(r.threshold)}  {r.reason}"
            for r in self.results
        )
        columns = f"  {'gate':<10} {'rule':<{width}}  verdict       value      asked  reason"
        return "\n".join([head, columns, *rows])


def _cell(value: float) -> str:
    return f"{'-':>9}" if math.isnan(value) else f"{value:>9.4g}"
