"""What a good plan does about a scenario: worked out from the stated truth and the plan's own margins."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from control_plane.domain.plan import DIRECTION_OF, Metric, Role, RolloutPlan
from control_plane.domain.verdict import percent
from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.run import Ending
from control_plane.rehearsal.scenarios import Scenario

BLURRED = 0.3  # standard error of log scores from which on a loss of information is plain to the shadow
INFORMATION = "the information in its scores"
NAMES = {
    Metric.CTR: "CTR",
    Metric.GOOD_CLICK_RATE: "good-click rate",
    Metric.HIDE_RATE: "hide rate",
    Metric.REVENUE_PER_IMPRESSION: "revenue per impression",
}


class Wish(StrEnum):
    SHIP = "ship"  # reach full traffic
    STOP = "stop"  # never reach it: rolled back, held or expired
    ROLL_BACK = "roll_back"
    HOLD = "hold"  # stop for a person, or take it off
    TOLERATE = "tolerate"  # the plan's margins allow it: either way is right
    UNGUARDED = "unguarded"  # the plan has nothing that could see it


GRANTED_BY: Mapping[Wish, frozenset[Ending]] = {
    Wish.SHIP: frozenset({Ending.SHIPPED}),
    Wish.STOP: frozenset({Ending.ROLLED_BACK, Ending.HELD, Ending.TIMED_OUT}),
    Wish.ROLL_BACK: frozenset({Ending.ROLLED_BACK}),
    Wish.HOLD: frozenset({Ending.HELD, Ending.ROLLED_BACK}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    wish: Wish
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Harm:
    """One harm on one part of the surface, as the plan sees it; margins are None where it does not look."""

    what: str
    size: float
    tolerated: float | None
    forbidden: float | None


def expectation(plan: RolloutPlan, scenario: Scenario, *, view_shares: Mapping[str, float]) -> Expectation:
    faults = scenario.faults
    if faults.error_rate > plan.hard_stops.max_error_rate:
        allowed = percent(plan.hard_stops.max_error_rate, signed=False)
        return Expectation(wish=Wish.ROLL_BACK, sentence=f"Roll back: the plan allows {allowed} of failed requests.")
    if faults.lost_users:
        return Expectation(wish=Wish.HOLD, sentence="Stop for a person: the arms cannot be compared any more.")
    harms = [harm for harm in _harms(plan, scenario.effects.lasting, view_shares) if harm.size > 1e-9]
    if not harms:
        waiting = "Wait until events come again, then reach full traffic."
        return Expectation(
            wish=Wish.SHIP, sentence="Reach full traffic." if faults.feed_stops_at_day is None else waiting
        )
    return _about_harm(harms)


def _about_harm(harms: list[_Harm]) -> Expectation:
    forbidden = [harm for harm in harms if harm.forbidden is not None and harm.size >= harm.forbidden - 1e-9]
    if forbidden:
        first = forbidden[0]
        limit = percent(first.forbidden or 0.0, signed=False)
        asked = "the shadow sees it" if first.what == INFORMATION else f"the plan asks for {first.what} within {limit}"
        return Expectation(wish=Wish.STOP, sentence=f"Never reach full traffic: {asked}.")
    guarded = [harm for harm in harms if harm.tolerated is not None and harm.forbidden is not None]
    if not guarded:
        names = " and ".join(dict.fromkeys(harm.what for harm in harms))
        return Expectation(wish=Wish.UNGUARDED, sentence=f"Nothing can be expected: the plan does not guard {names}.")
    worst = max(guarded, key=lambda harm: harm.size)
    size, low, high = (percent(part or 0.0, signed=False) for part in (worst.size, worst.tolerated, worst.forbidden))
    if worst.size <= (worst.tolerated or 0.0) + 1e-9:
        return Expectation(wish=Wish.TOLERATE, sentence=f"Either way: the plan puts up with {low} of {worst.what}.")
    return Expectation(
        wish=Wish.TOLERATE, sentence=f"Either way: {size} of {worst.what} lies between the margins, {low} and {high}."
    )


def _harms(plan: RolloutPlan, effects: Effects, view_shares: Mapping[str, float]) -> Iterator[_Harm]:
    total = sum(view_shares.values())
    by_view = {view_type: effects.at(view_type) for view_type in view_shares}
    for metric in Metric:
        changes = {view_type: _change(metric, effects.at(view_type)) for view_type in view_shares}
        overall = sum(changes[view_type] * share / total for view_type, share in view_shares.items())
        guardrail = plan.guardrail(metric)
        guards = guardrail is not None and guardrail.role is not Role.MONITOR
        for change in (overall, *changes.values()):
            yield _Harm(
                what=NAMES[metric],
                size=-DIRECTION_OF[metric] * change,
                tolerated=guardrail.harm_margin if guardrail is not None and guards else None,
                forbidden=guardrail.safe_margin if guardrail is not None and guards else None,
            )
    yield from _prediction_harms(plan, by_view)


def _prediction_harms(plan: RolloutPlan, by_view: Mapping[str, Effects]) -> Iterator[_Harm]:
    calibration = plan.calibration
    guards = calibration.role is not Role.MONITOR
    offsets = [_miscalibration(effects) for effects in by_view.values()]
    everywhere = len(set(offsets)) == 1
    band = calibration.band if everywhere else calibration.view_type_band
    epsilon = calibration.epsilon if everywhere else calibration.view_type_epsilon
    yield _Harm(
        what="calibration",
        size=max(offsets),
        tolerated=epsilon if guards else None,
        forbidden=band if guards else None,
    )
    blur = max(effects.score_noise for effects in by_view.values())
    yield _Harm(what=INFORMATION, size=blur, tolerated=0.0, forbidden=BLURRED)


def _change(metric: Metric, effects: Effects) -> float:
    clicks = max(0.0, 1 + effects.ctr)
    match metric:
        case Metric.CTR:
            return clicks - 1
        case Metric.GOOD_CLICK_RATE:
            return clicks * (1 + effects.good_click_rate) - 1
        case Metric.HIDE_RATE:
            return effects.hide_rate
        case Metric.REVENUE_PER_IMPRESSION:
            return clicks * (1 + effects.revenue_per_click) - 1


def _miscalibration(effects: Effects) -> float:
    """|log(predicted / observed)|, infinite where nothing comes of what is predicted."""
    known = 1.0 if effects.is_foreseen else max(0.0, 1 + effects.ctr)
    return abs(math.log1p(effects.prediction) - math.log(known)) if known > 0 else math.inf
