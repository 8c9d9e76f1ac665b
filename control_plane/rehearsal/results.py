"""What the runs of one scenario say, with their Monte-Carlo error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.estimates import Proportion, Spread, proportion, spread
from control_plane.rehearsal.run import Ending, Run
from control_plane.rehearsal.scenarios import Scenario
from control_plane.rehearsal.wishes import GRANTED_BY, Expectation, Wish

MOSTLY = 0.95  # share of runs that went as they should, from which on the plan does its job
PARTLY = 0.50


class Grade(StrEnum):
    """How often the plan did what a good plan does."""

    GOOD = "good"
    PARTLY = "partly"
    POOR = "poor"
    OPEN = "open"  # nothing was to be expected


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One scenario. Spreads of days are over the runs that ended so; costs are over all runs.

    Attributes:
        as_wished: share of runs that ended as a good plan lets them end; None where nothing is expected.
        detection_days: from the candidate's first weight to the rollback on evidence; 0 is in the shadow.
        in_shadow: runs rolled back on evidence before the candidate answered anyone.
        lost: expected engagement lost while the run lasted; hides are those too many.
        lost_per_day: what each day at full traffic would cost, for as long as nobody notices.
        lost_share: `lost` as a share of all that the surface would have had meanwhile.
    """

    scenario: Scenario
    expectation: Expectation
    runs: tuple[Run, ...]
    endings: Mapping[Ending, Proportion]
    as_wished: Proportion | None
    in_shadow: Proportion
    detection_days: Spread | None
    full_traffic_days: Spread | None
    end_days: Spread
    candidate_impressions: Spread
    harmed_impressions: Spread
    lost: Mapping[str, Spread]
    lost_per_day: Mapping[str, float]
    lost_share: Mapping[str, float]

    @property
    def grade(self) -> Grade:
        if self.as_wished is None:
            return Grade.OPEN
        if self.as_wished.value >= MOSTLY:
            return Grade.GOOD
        return Grade.PARTLY if self.as_wished.value >= PARTLY else Grade.POOR

    def count(self, ending: Ending) -> int:
        return sum(run.ending is ending for run in self.runs)


def result_of(
    scenario: Scenario, expectation: Expectation, runs: Sequence[Run], *, view_shares: Mapping[str, float]
) -> Result:
    back = [run for run in runs if run.ending is Ending.ROLLED_BACK]
    per_day = _at_stable_per_day(runs)
    gone = _lost_at_full_traffic(scenario.effects.lasting, view_shares)
    names = list(runs[0].lost)
    return Result(
        scenario=scenario,
        expectation=expectation,
        runs=tuple(runs),
        endings={end: proportion(sum(run.ending is end for run in runs), len(runs)) for end in Ending},
        as_wished=_as_wished(expectation.wish, runs),
        in_shadow=proportion(sum(run.candidate_impressions == 0 for run in back), len(runs)),
        detection_days=spread([run.days_of_traffic for run in back]),
        full_traffic_days=spread([run.days for run in runs if run.ending is Ending.SHIPPED]),
        end_days=_spread([run.days for run in runs]),
        candidate_impressions=_spread([float(run.candidate_impressions) for run in runs]),
        harmed_impressions=_spread([run.harmed_impressions for run in runs]),
        lost={name: _spread([run.lost[name] for run in runs]) for name in names},
        lost_per_day={name: gone[name] * per_day[name] for name in names},
        lost_share={name: _share(runs, name) for name in names},
    )


def _as_wished(wish: Wish, runs: Sequence[Run]) -> Proportion | None:
    if wish not in GRANTED_BY:
        return None
    return proportion(sum(run.ending in GRANTED_BY[wish] for run in runs), len(runs))


def _spread(values: Sequence[float]) -> Spread:
    found = spread(values)
    assert found is not None
    return found


def _at_stable_per_day(runs: Sequence[Run]) -> dict[str, float]:
    days = sum(run.days for run in runs)
    return {name: sum(run.at_stable[name] for run in runs) / days for name in runs[0].at_stable}


def _share(runs: Sequence[Run], name: str) -> float:
    whole = sum(run.at_stable[name] for run in runs)
    return sum(run.lost[name] for run in runs) / whole if whole else 0.0


def _lost_at_full_traffic(effects: Effects, view_shares: Mapping[str, float]) -> dict[str, float]:
    """Relative, in the long run."""
    lost = dict.fromkeys(("clicks", "good_clicks", "hides", "revenue"), 0.0)
    total = sum(view_shares.values())
    for view_type, share in view_shares.items():
        here = effects.at(view_type)
        clicks = max(0.0, 1 + here.ctr)
        lost["clicks"] += share / total * (1 - clicks)
        lost["good_clicks"] += share / total * (1 - clicks * (1 + here.good_click_rate))
        lost["revenue"] += share / total * (1 - clicks * (1 + here.revenue_per_click))
        lost["hides"] += share / total * here.hide_rate
    return lost
