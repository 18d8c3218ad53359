"""Wrong versions of the rules on evidence: what is counted of a request, and who falls by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from mlops.rollout import analysis as analysing
from mlops.rollout import fallback as falling
from mlops.rollout.analysis import ChampionTrials, TrialCounts
from mlops.serving import dispatcher as dispatching
from mlops.serving.dispatcher import Dispatcher
from mlops.serving.request_counters import RequestCounters, Try
from mlops.store import request_counts as counting
from mlops.store.request_counts import Source, Tally

from .mutants import _YES_NO, Mutant, Rule, Wrong, _always

SURE_TO_FAIL = ChampionTrials(TrialCounts(1000, 200), TrialCounts(23, 1))


def _seeing_trials(**changes: TrialCounts) -> Wrong:
    """The rule, with other trials than there are."""
    return lambda right: lambda *args: right(*args[:-1], replace(args[-1], **changes))


def _counting(change: Any) -> Wrong:
    """The counter, told something else of the versions that were asked."""

    def wrong(right: Rule) -> Rule:
        def count(self: RequestCounters, route: Any, tries: Any, **how: Any) -> None:
            right(self, route, *change(route, tries, how))

        return count

    return wrong


def _of_any_age(source: Source) -> Wrong:
    """What was counted long ago of one source counts as well."""

    def wrong(right: Rule) -> Rule:
        def read(*args: Any, newer_than_s: float) -> dict[str, tuple[Tally, ...]]:
            recent = right(*args, newer_than_s=newer_than_s)
            ever = right(*args, newer_than_s=1e9)
            return {
                scope: tuple(row for row in rows if row.source is source)
                + tuple(row for row in recent.get(scope, ()) if row.source is not source)
                for scope, rows in ever.items()
            }

        return read

    return wrong


def _counted_anyway(right: Rule) -> Rule:
    """A request that all versions fail on is a trial of those."""

    def wrong(self: RequestCounters, route: Any, tries: Any, **how: Any) -> None:
        failed = tries and tries[-1].fault is not None
        right(self, route, [*tries, Try("nobody", 0.0)] if failed else tries, **how)

    return wrong


def _short_is_a_fault(right: Rule) -> Rule:
    def wrong(self: RequestCounters, route: Any, tries: Any, *, key: Any, too_short: Any) -> None:
        short = [Try(route.challenger, 0.0, "too_few_bars")] if too_short else []
        right(self, route, [*short, *tries], key=key)

    return wrong


def _short_is_a_success(right: Rule) -> Rule:
    def wrong(self: RequestCounters, route: Any, tries: Any, *, key: Any, too_short: Any) -> None:
        tries = [*([Try(route.challenger, 0.0)] if too_short else []), *tries]
        right(self, route, tries, key=key, too_short=too_short)

    return wrong


def _all_are_charged(right: Rule) -> Rule:
    def wrong(self: RequestCounters, route: Any, tries: Any, *rest: Any) -> None:
        for tried in tries:
            right(self, route, [tried], *rest)

    return wrong


_MUTANTS: Mapping[tuple[ModuleType | type, str], Mapping[str, Wrong]] = {
    (falling, "champion_failing"): {
        **_YES_NO,
        "where a replica lacks what it needs": lambda right: (
            lambda route, replicas, trials: (
                right(route, replicas, trials)
                or next((one.id for one in replicas if one.failed_to_load(route.champion)), None)
            )
        ),
        "whatever the loads say": lambda right: (
            lambda route, replicas, trials: right(route, (), trials)
        ),
        "by requests alone": _seeing_trials(own=SURE_TO_FAIL.own),
        "by our inputs alone": _seeing_trials(live=SURE_TO_FAIL.live),
        "without a check": lambda right: (
            lambda route, replicas, trials: right(
                route,
                replicas,
                trials if trials.own.trials else replace(trials, own=SURE_TO_FAIL.own),
            )
        ),
    },
    (falling, "explain_requests"): {
        "always": _always("requests fail"),
        "never": _always(None),
        "of what falls too": lambda right: (
            lambda route, trials: right(route, replace(trials, own=TrialCounts(23, 0)))
        ),
    },
    (falling, "decide_fallback"): {
        "to what nobody holds": lambda right: (
            lambda route, replicas, trials, **rest: (
                right(route, replicas, trials, **rest)
                or (
                    falling.champion_failing(route, replicas, trials)
                    and falling.Fallback(replace(route, champion=route.baseline), "why", {})
                )
            )
        ),
        "never": lambda right: lambda *args, **kwargs: None,
        "by requests alone": lambda right: (
            lambda route, replicas, trials, **rest: right(
                route, replicas, replace(trials, own=SURE_TO_FAIL.own), **rest
            )
        ),
    },
    (analysing, "count_champion_trials"): {
        "none": _always(TrialCounts()),
        "with our inputs": lambda right: (
            lambda tallies: TrialCounts(
                sum(row.champion_trials for row in tallies),
                100 * sum(row.champion_faults for row in tallies),
            )
        ),
    },
    (analysing, "count_own_trials"): {
        "none": _always(TrialCounts()),
        "requests as well": lambda right: analysing.count_champion_trials,
    },
    (counting, "read_tallies_in_use"): {
        "checks of any age": _of_any_age(Source.REPLAY),
        "requests of any age": _of_any_age(Source.LIVE),
        "nothing": _always({}),
    },
    (RequestCounters, "count_request"): {
        "whatever failed everywhere": _counted_anyway,
        "too few bars as a fault": _short_is_a_fault,
        "too few bars as a success": _short_is_a_success,
        "nothing": _always(None),
    },
    (RequestCounters, "_count_trials"): {
        "of nobody": _always(None),
        "of all that were asked": _all_are_charged,
    },
    (RequestCounters, "_count_dealt"): {"never": _always(None)},
    (Dispatcher, "_explain_failure"): {
        "as a fault": lambda right: (
            lambda self, route, faults, short: (
                faults[-1] if faults else right(self, route, faults, short)
            )
        ),
    },
    (dispatching, "fit_windows"): {
        "as they are": lambda right: lambda model, windows: list(windows),
    },
}


def evidence_mutants() -> Iterator[Mutant]:
    """Every wrong version there is of a rule on evidence."""
    for (owner, rule), versions in _MUTANTS.items():
        for how, wrong in versions.items():
            yield Mutant(owner, rule, how, wrong)
