"""Wrong versions of every rule, which the check must find out.

Each rule has some; a rule that has none fails a test, so that none is added without.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from mlops.rollout import comparing, routing
from mlops.rollout import decide as deciding
from mlops.rollout.analysis import (
    Evidence,
    ShortRequests,
    judge_challenger,
)
from mlops.rollout.plan import EVERYTHING_BP, Strategy
from mlops.rollout.snapshot import Snapshot
from mlops.store.replicas import LoadCause
from mlops.store.schema import Phase, Status, Verdict

Rule = Callable[..., Any]
Wrong = Callable[[Rule], Rule]
"""Makes a wrong version out of the right one."""

NO_RULES = frozenset({"_explain_failures"})
"""Functions that only find words."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule, replaced."""

    owner: ModuleType | type
    rule: str
    how: str
    wrong: Wrong

    def __str__(self) -> str:
        return f"{self.rule}-{self.how.replace(' ', '_')}"

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the wrong version wherever the right one is looked up."""
        right = inspect.getattr_static(self.owner, self.rule)
        if isinstance(right, property):
            assert right.fget is not None
            patch.setattr(self.owner, self.rule, property(self.wrong(right.fget)))
            return
        wrong = self.wrong(right)
        if isinstance(self.owner, type):
            patch.setattr(self.owner, self.rule, wrong)
        for name, module in tuple(sys.modules.items()):
            if name.startswith("mlops.") and vars(module).get(self.rule) is right:
                patch.setattr(module, self.rule, wrong)
        for phase, rule in deciding._RULES.items():
            if rule is right:
                patch.setitem(deciding._RULES, phase, wrong)


def rules_of(owner: ModuleType | type) -> set[str]:
    """The names of all rules in a module or class."""
    if isinstance(owner, type):
        return {name for name, _ in inspect.getmembers(owner, lambda x: isinstance(x, property))}
    functions = inspect.getmembers(owner, inspect.isfunction)
    return {name for name, one in functions if one.__module__ == owner.__name__} - NO_RULES


def all_mutants() -> Iterator[Mutant]:
    """Every wrong version there is."""
    for owner, table in _TABLES:
        for rule, versions in table.items():
            for how, wrong in versions.items():
                yield Mutant(owner, rule, how, wrong)


def first_of_each_rule(mutants: Iterable[Mutant]) -> Iterator[Any]:
    """Every mutant; those of a rule after its first are `make test-slow`."""
    seen: set[str] = set()
    for mutant in mutants:
        later = mutant.rule in seen
        yield pytest.param(mutant, id=str(mutant), marks=[pytest.mark.slow] if later else [])
        seen.add(mutant.rule)


def _always(value: Any) -> Wrong:
    return lambda right: lambda *args, **kwargs: value


_YES_NO: Mapping[str, Wrong] = {"always": _always(True), "never": _always(False)}


def _seeing(**changes: Any) -> Wrong:
    """The rule, blind to something it should see."""
    return lambda right: lambda s, *rest: right(replace(s, **changes), *rest)


def _asking(**changes: Any) -> Wrong:
    """The rule, blind to a part of what was asked."""
    return lambda right: (
        lambda s, *rest: right(replace(s, rollout=replace(s.rollout, **changes)), *rest)
    )


def _timeless(right: Rule) -> Rule:
    return lambda s, now: right(s, s.rollout.since)


def _routed(**changes: Any) -> Wrong:
    """The rule, with another route in what it returns."""

    def wrong(right: Rule) -> Rule:
        def changed(*args: Any) -> Any:
            arrow = right(*args)
            if arrow is None or arrow.route is None:
                return arrow
            return replace(arrow, route=replace(arrow.route, **changes))

        return changed

    return wrong


def _returning(**changes: Any) -> Wrong:
    """The rule, with other values in what it returns."""

    def wrong(right: Rule) -> Rule:
        def changed(*args: Any, **kwargs: Any) -> Any:
            result = right(*args, **kwargs)
            return None if result is None else replace(result, **changes)

        return changed

    return wrong


def _at_once(to: Phase) -> Wrong:
    """Bad news apart, the phase leads on at once."""

    def wrong(right: Rule) -> Rule:
        def hasty(s: Snapshot, now: Any) -> Any:
            if right(s, now) is not None or deciding.reason_to_undo(s, now):
                return right(s, now)
            route = deciding._with_step_share(s, 0) if to is Phase.STEP else None
            return deciding._make_arrow(s, to, "at once", route=route, step=0)

        return hasty

    return wrong


def _promotes_unseen(right: Rule) -> Rule:
    def wrong(s: Snapshot, now: Any) -> Any:
        arrow = right(s, now)
        ready = deciding.is_acknowledged(s) and deciding.is_loaded(s)
        if arrow is None and ready and deciding.has_dwelt(s, now, s.plan.dwell_s):
            return deciding._next_step(s) or deciding._promote(s)
        return arrow

    return wrong


def _promotes_shadows(right: Rule) -> Rule:
    def wrong(s: Snapshot, now: Any) -> Any:
        arrow = right(s, now)
        done = arrow is not None and arrow.to is Phase.DONE
        return deciding._promote(s) if done else arrow

    return wrong


def _ends(condition: Callable[[Snapshot, Any], bool], **changes: Any) -> Wrong:
    """The rollout ends on another condition, with another route."""

    def wrong(right: Rule) -> Rule:
        def ended(s: Snapshot, now: Any) -> Any:
            if not condition(s, now):
                return None
            return deciding._make_arrow(s, Phase.FAILED, "why", route=replace(s.route, **changes))

        return ended

    return wrong


_NO_CHALLENGER = {"challenger": None, "weight_bp": 0, "mirror_bp": 0, "only_replicas": None}


def _restored(s: Snapshot, now: Any) -> bool:
    holds = all(one.holds(s.route.champion) for one in s.waited_for)
    return (deciding.is_acknowledged(s) and holds) or deciding.is_late(s, now)


def _repeats_the_last(right: Rule) -> Rule:
    def wrong(s: Snapshot) -> Any:
        last = deciding._with_step_share(s, s.rollout.step + 1)
        step = s.rollout.step + 1
        return right(s) or deciding._make_arrow(s, Phase.STEP, "again", route=last, step=step)

    return wrong


_DECIDE: Mapping[str, Mapping[str, Wrong]] = {
    "decide": {"never anything": _always(None)},
    "is_acknowledged": {
        **_YES_NO,
        "by nobody": lambda right: lambda s: not s.waited_for or right(s),
        "by one": lambda right: (
            lambda s: any(
                one.generations.get(s.route.service) == s.route.generation for one in s.waited_for
            )
        ),
    },
    "is_loaded": {
        **_YES_NO,
        "by one": lambda right: (
            lambda s: any(one.holds(s.rollout.to_version) for one in s.waited_for)
        ),
    },
    "has_lost_participants": {
        **_YES_NO,
        "by one": lambda right: (
            lambda s: (
                s.route.only_replicas is not None
                and s.waited_for
                and not set(s.route.only_replicas) <= {one.id for one in s.waited_for}
            )
        ),
    },
    "load_failed": {
        **_YES_NO,
        "whatever the cause": lambda right: (
            lambda s: any(one.failed_to_load(s.rollout.to_version) for one in s.waited_for)
        ),
    },
    "is_held": _YES_NO,
    "is_late": _YES_NO,
    "has_expired": {
        **_YES_NO,
        "whoever has just started": lambda right: deciding.is_late,
        "while nobody lives": lambda right: (
            lambda s, now: right(s, now) or (deciding.is_late(s, now) and not s.waited_for)
        ),
    },
    "has_dwelt": _YES_NO,
    "has_gate_evidence": _YES_NO,
    "reason_to_hold": {
        **_YES_NO,
        "at the next key": lambda right: lambda s: "held" if s.short_requests.short else None,
        "without words": lambda right: lambda s: "held" if right(s) else None,
    },
    "may_go_live": {**_YES_NO, "even where forced": _asking(forced=False)},
    "allowed_statuses": {
        "refused ones in every rollout": _always(deciding.SHADOWABLE),
        "no refused one in a shadow": _always(deciding.DEPLOYABLE),
        "failed ones in a shadow": lambda right: lambda plan: (*right(plan), Status.FAILED),
    },
    "reason_to_undo": {
        "nothing": _always(None),
        "everything": _always("why"),
        "aborted or not": _asking(abort_requested=None),
        "worse or not": lambda right: (
            lambda s, now: None if s.verdict.conclusion == "worse" else right(s, now)
        ),
        "failing champion or not": _seeing(champion_failing=None),
        "late or not": _timeless,
        "held as well": lambda right: lambda s, now: right(s, now) or deciding.reason_to_hold(s),
    },
    "_reason_to_revert": {
        "while others may load it": lambda right: (
            lambda s, now: "why" if deciding.load_failed(s) else right(s, now)
        ),
        "whatever a replica lacks": lambda right: (
            lambda s, now: (
                "why" if deciding.is_late(s, now) and not deciding.is_loaded(s) else right(s, now)
            )
        ),
        "nothing": _always(None),
        "everything": _always("why"),
        "aborted or not": _asking(abort_requested=None),
        "worse or not": lambda right: (
            lambda s, now: right(
                replace(s, evidence=replace(s.evidence, promoted=Evidence().promoted)), now
            )
        ),
        "late or not": _timeless,
    },
    "_decide_pending": {
        "waits for ever": _always(None),
        "whatever it is": lambda right: (
            lambda s, now: deciding._begin_loading(s, "why") if s.waited_for else right(s, now)
        ),
        "aborted or not": _asking(abort_requested=None),
        "the champion again": lambda right: (
            lambda s, now: (
                deciding._begin_loading(s, "why")
                if s.waited_for and s.rollout.to_version == s.route.champion
                else right(s, now)
            )
        ),
        "nobody runs": lambda right: (
            lambda s, now: right(s, now) or deciding._make_arrow(s, Phase.LOADING, "why")
        ),
    },
    "_decide_loading": {"waits for ever": _always(None), "goes on at once": _at_once(Phase.GATE)},
    "_decide_gate": {"waits for ever": _always(None), "goes on at once": _at_once(Phase.STEP)},
    "_decide_step": {
        "waits for ever": _always(None),
        "promotes at once": _at_once(Phase.PROMOTED),
        "promotes unseen": _promotes_unseen,
        "promotes shadows": _promotes_shadows,
        "held or not": _seeing(short_requests=ShortRequests()),
        "before its verdict": _seeing(verdict_of_test=Verdict.BETTER),
        "without its verdict": _seeing(verdict_of_test=None),
    },
    "_decide_promoted": {
        "waits for ever": _always(None),
        "ends at once": lambda right: (
            lambda s, now: right(s, now) or deciding._make_arrow(s, Phase.DONE, "why")
        ),
    },
    "_decide_reverted": {
        "waits for ever": _always(None),
        "ends at once": _ends(lambda s, now: True, previous_champion=None),
        "before all hold it": _ends(
            lambda s, now: deciding.is_acknowledged(s), previous_champion=None
        ),
        "drops the failed version though late": _ends(_restored, previous_champion=None),
        "at its deadline only": _ends(deciding.is_late),
    },
    "_decide_rollback": {
        "waits for ever": _always(None),
        "ends at once": _ends(lambda s, now: True, **_NO_CHALLENGER),
        "keeps the challenger": _ends(lambda s, now: deciding.is_acknowledged(s)),
        "always well": lambda right: (
            lambda s, now: (arrow := right(s, now)) and replace(arrow, to=Phase.DONE)
        ),
        "at its deadline only": _ends(deciding.is_late, **_NO_CHALLENGER),
    },
    "_make_arrow": {
        "without patience": _returning(patience=timedelta(0)),
        "without its route": _returning(route=None),
        "without statuses": _returning(statuses={}),
        "without counting": _returning(step=0),
    },
    "_begin_loading": {
        "exposed": _routed(weight_bp=EVERYTHING_BP),
        "shown nothing": _routed(mirror_bp=0),
        "by all at once": _routed(only_replicas=None),
        "by nobody": _routed(only_replicas=()),
        "dealt as ever": _routed(salt=""),
    },
    "_with_step_share": {
        "at once": lambda right: lambda s, step: right(s, len(s.plan.weights_bp) - 1),
        "never": lambda right: lambda s, step: replace(s.route, weight_bp=0),
        "shown nothing": lambda right: lambda s, step: replace(right(s, step), mirror_bp=0),
    },
    "_next_step": {
        "none": _always(None),
        "for ever": _repeats_the_last,
        "all who are left": lambda right: (
            lambda s: None if s.route.only_replicas is None else _all_who_are_left(right, s)
        ),
    },
    "_promote": {
        "without the previous": _routed(previous_champion=None),
        "still the challenger": _routed(challenger="B"),
        "not at all": _routed(champion="A"),
        "without statuses": _returning(statuses={}),
    },
    "_find_successor": {
        "nobody": _always(None),
        "the baseline first": lambda right: lambda s: s.route.baseline,
        "held or not": lambda right: lambda s: s.route.previous_champion,
    },
    "_revert": {
        "dropping at once": _routed(previous_champion=None),
        "not at all": _returning(route=None),
        "without statuses": _returning(statuses={}),
    },
    "_roll_back": {
        "keeping its share": _returning(route=None),
        "still shown": _routed(mirror_bp=EVERYTHING_BP),
        "never failed": _returning(statuses={}),
        "always failed": _returning(statuses={"B": deciding.Status.FAILED}),
        "never asked for": _returning(abort=None),
        "always asked for": _returning(abort="somebody"),
        "of unknown verdict": _returning(verdict_of_test=None),
    },
    "_make_room": {
        "never": _always(None),
        "of its own accord": lambda right: lambda s: right(replace(s, asked_by=s.rollout)),
        "tests as well": lambda right: (
            lambda s: (
                comparing.interrupt(s.rollout, s.route, "why", again=False)
                if s.asked_by is not None and comparing.makes_room(s.rollout)
                else None
            )
        ),
    },
    "_takes_part": {
        **_YES_NO,
        "only before": lambda right: lambda s, one: routing.takes_part(s.route, one.id),
    },
    "_promoted_verdict": {
        "as before": lambda right: lambda s: s.verdict,
        "never worse": lambda right: lambda s: judge_challenger(Evidence(), max_fault_rate=0.01),
    },
    "_is_loaded_unattended": {
        **_YES_NO,
        "won or not": lambda right: lambda s: s.rollout.phase is Phase.LOADING and right(s),
    },
    "_has_followed": _YES_NO,
    "_explain_delay": {
        "without words": _always(""),
        "held or not": lambda right: lambda s: right(replace(s, short_requests=ShortRequests())),
    },
}


def _all_who_are_left(right: Rule, s: Snapshot) -> Any:
    arrow = right(s)
    if arrow is None:
        return None
    everybody = tuple(one.id for one in s.waited_for)
    return replace(arrow, route=replace(arrow.route, only_replicas=(*everybody, "r2")))


_SNAPSHOT: Mapping[str, Mapping[str, Wrong]] = {
    "waited_for": {
        "all": lambda right: lambda s: s.replicas,
        "nobody": _always(()),
        "one": lambda right: lambda s: right(s)[:1],
    },
    "able": {
        "all": lambda right: lambda s: s.waited_for,
        "nobody": _always(()),
        "whose files are right": lambda right: (
            lambda s: tuple(
                one
                for one in s.waited_for
                if not one.failed_to_load(s.rollout.to_version, LoadCause.VERSION)
            )
        ),
    },
    "verdict": {
        "always good": lambda right: (
            lambda s: replace(right(s), conclusion=deciding.Conclusion.GOOD)
        ),
        "never good": lambda right: (
            lambda s: replace(right(s), conclusion=deciding.Conclusion.UNKNOWN)
        ),
        "always worse": lambda right: (
            lambda s: replace(right(s), conclusion=deciding.Conclusion.WORSE)
        ),
    },
}

_COMPARING: Mapping[str, Mapping[str, Wrong]] = {
    "carries_test": _YES_NO,
    "is_won": {
        **_YES_NO,
        "without a verdict": lambda right: lambda s: s.verdict_of_test is None or right(s),
        "whatever the verdict": lambda right: lambda s: s.verdict_of_test is not None,
        "wanted or not": lambda right: lambda s: s.verdict_of_test is Verdict.BETTER,
        "where it is worse": lambda right: lambda s: s.verdict_of_test is Verdict.WORSE,
        "by traffic": lambda right: lambda s: s.verdict.conclusion is deciding.Conclusion.GOOD,
    },
    "is_lost": {
        **_YES_NO,
        "only where it is worse": lambda right: lambda s: s.verdict_of_test is Verdict.WORSE,
        "wanted or not": lambda right: lambda s: s.verdict_of_test not in (None, Verdict.BETTER),
    },
    "is_unevaluated": {
        **_YES_NO,
        "whatever the phase": lambda right: (
            lambda s: comparing.carries_test(s) and s.verdict_of_test is None
        ),
        "whatever the verdict": lambda right: (
            lambda s: comparing.carries_test(s) and s.rollout.phase is Phase.STEP
        ),
    },
    "keeps_challenger": {
        **_YES_NO,
        "though it is worse": lambda right: lambda s: right(_with_verdict(s, Verdict.INVALID)),
        "though it failed": lambda right: (
            lambda s: right(replace(s, statuses={s.rollout.to_version: Status.CHALLENGER}))
        ),
        "only where it was asked": lambda right: (
            lambda s: s.rollout.abort_requested is not None and right(s)
        ),
        "asked or not": _asking(abort_requested="somebody"),
        "though it is nobody's test": lambda right: (
            lambda s: s.rollout.abort_requested is not None or right(s)
        ),
        "the winner that was to be promoted": lambda right: (
            lambda s: right(replace(s, promotes_winner=False))
        ),
    },
    "makes_room": {
        **_YES_NO,
        "when it has ended": lambda right: lambda row, **_: row.strategy in _COMPARED,
        "when it has begun": lambda right: (
            lambda row, **options: row.phase is Phase.STEP and right(row, **options)
        ),
    },
    "interrupt": {
        "as a failure": _returning(to=Phase.FAILED),
        "on its share": _returning(route=None),
        "for good": _returning(abort=None),
    },
    "without_challenger": {
        "with a share": lambda right: lambda route: replace(right(route), weight_bp=EVERYTHING_BP),
        "not at all": lambda right: lambda route: route,
        "without its champion": lambda right: lambda route: replace(right(route), champion="B"),
    },
}

_COMPARED = (Strategy.AB_TEST, Strategy.SHADOW)


def _with_verdict(s: Snapshot, verdict: Verdict) -> Snapshot:
    return replace(s, verdict_of_test=verdict if s.verdict_of_test is Verdict.WORSE else None)


_COUNTER = itertools.count()


def _ask(*names: str, ready_only: bool = True) -> Wrong:
    """Ask these, in turn."""

    def wrong(right: Rule) -> Rule:
        def ask_order(route: Any, ready: Any, *, challenger_first: bool) -> tuple[str, ...]:
            order = [getattr(route, name) for name in names]
            if challenger_first:
                order.insert(0, route.challenger)
            found = [one for one in order if one is not None and (not ready_only or one in ready)]
            return tuple(dict.fromkeys(found))

        return ask_order

    return wrong


def _want(*names: str) -> Wrong:
    """Want these, in turn, and the challenger where it takes part."""

    def wrong(right: Rule) -> Rule:
        def wanted(route: Any, replica_id: str) -> tuple[str, ...]:
            part = routing.takes_part(route, replica_id)
            chosen = [name for name in names if name != "challenger" or part]
            found = [getattr(route, name) for name in chosen]
            return tuple(dict.fromkeys(one for one in found if one is not None))

        return wanted

    return wrong


def _first_missing(right: Rule) -> Rule:
    def wrong(route: Any, replica_id: str, states: Mapping[str, str]) -> str | None:
        names = routing.wanted(route, replica_id)
        return next((name for name in names if name not in states), None)

    return wrong


def _last_missing(right: Rule) -> Rule:
    def wrong(route: Any, replica_id: str, states: Mapping[str, str]) -> str | None:
        names = reversed(routing.wanted(route, replica_id))
        return next((name for name in names if name not in states), None)

    return wrong


_ROUTING: Mapping[str, Mapping[str, Wrong]] = {
    "deal": {
        "to one place": _always(0),
        "the same for every rollout": lambda right: lambda salt, key: right("", key),
        "anew each time": lambda right: lambda salt, key: right(str(next(_COUNTER)), key),
        "short of the end": lambda right: lambda salt, key: right(salt, key) // 10,
    },
    "takes_part": {
        "never": _always(False),
        "all": lambda right: lambda route, replica_id: route.challenger is not None,
        "the others": lambda right: (
            lambda route, replica_id: route.challenger is not None and not right(route, replica_id)
        ),
    },
    "goes_to_challenger": {
        **_YES_NO,
        "valid or not": lambda right: (
            lambda route, replica_id, drawn, *, valid: right(route, replica_id, drawn, valid=True)
        ),
        "part or not": lambda right: (
            lambda route, replica_id, drawn, *, valid: valid and drawn < route.weight_bp
        ),
        "all or nothing": lambda right: (
            lambda route, replica_id, drawn, *, valid: right(route, replica_id, 0, valid=valid)
        ),
    },
    "ask_order": {
        "ready or not": _ask("champion", "previous_champion", "baseline", ready_only=False),
        "without champion": _ask("previous_champion", "baseline"),
        "without previous": _ask("champion", "baseline"),
        "without baseline": _ask("champion", "previous_champion"),
        "previous first": _ask("previous_champion", "champion", "baseline"),
        "baseline first": _ask("baseline", "champion", "previous_champion"),
        "challenger always": lambda right: (
            lambda route, ready, *, challenger_first: right(route, ready, challenger_first=True)
        ),
        "challenger never": lambda right: (
            lambda route, ready, *, challenger_first: right(route, ready, challenger_first=False)
        ),
        "nobody": _always(()),
    },
    "wanted": {
        "without champion": _want("baseline", "previous_champion", "challenger"),
        "without previous": _want("baseline", "champion", "challenger"),
        "without baseline": _want("champion", "previous_champion", "challenger"),
        "without challenger": _want("baseline", "champion", "previous_champion"),
        "challenger first": _want("challenger", "baseline", "champion", "previous_champion"),
        "by all": lambda right: (
            lambda route, replica_id: right(replace(route, only_replicas=None), replica_id)
        ),
    },
    "next_to_load": {
        "nothing": _always(None),
        "challenger without champion": _first_missing,
        "challenger before champion": _last_missing,
    },
    "may_drop": {
        "never": _always(False),
        "anything": _always(True),
        "what is wanted": lambda right: (
            lambda route, name, model, states: model in routing.wanted(route, name)
        ),
        "what failed only": lambda right: (
            lambda route, name, model, states: (
                right(route, name, model, states) and states[model] == routing.FAILED
            )
        ),
        "the challenger too": lambda right: (
            lambda route, name, model, states: (
                model == route.challenger or right(route, name, model, states)
            )
        ),
    },
}


_TABLES = (
    (deciding, _DECIDE),
    (comparing, _COMPARING),
    (Snapshot, _SNAPSHOT),
    (routing, _ROUTING),
)


def written_for(owner: ModuleType | type) -> set[str]:
    """The rules that have a mutant."""
    return {mutant.rule for mutant in all_mutants() if mutant.owner is owner}
