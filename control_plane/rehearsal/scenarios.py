"""What can be true of a candidate, by name: the scenarios that a plan is rehearsed under."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from control_plane.domain.errors import UnknownName
from control_plane.rehearsal.audience import Effects, Faults

EQUAL = "equal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One stated truth, with a sentence for people."""

    name: str
    sentence: str
    effects: Effects = field(default_factory=Effects)
    faults: Faults = field(default_factory=Faults)


def scenarios(names: Iterable[str], *, view_types: Iterable[str]) -> tuple[Scenario, ...]:
    """The equal candidate first, then the named ones, each once; `UnknownName` lists what there is."""
    known = {scenario.name: scenario for scenario in all_scenarios(view_types)}
    wanted = dict.fromkeys([EQUAL, *names])
    for name in wanted:
        if name not in known:
            raise UnknownName("fault", name, known=list(known))
    return tuple(known[name] for name in wanted)


def all_scenarios(view_types: Iterable[str]) -> tuple[Scenario, ...]:
    first = next(iter(view_types))
    return (
        Scenario(name=EQUAL, sentence="The candidate is exactly as good as stable."),
        _ctr("ctr-1", 0.01),
        _ctr("ctr-3", 0.03),
        _ctr("ctr-10", 0.10),
        _ctr("ctr-50", 0.50),
        Scenario(
            name="good-clicks-5",
            sentence="Clicks are as many, but 5 % fewer of them are good ones.",
            effects=Effects(good_click_rate=-0.05),
        ),
        Scenario(name="hides+20", sentence="People hide its ads 20 % more often.", effects=Effects(hide_rate=0.20)),
        Scenario(
            name="revenue-3",
            sentence="Clicks are as many, but each brings 3 % less revenue.",
            effects=Effects(revenue_per_click=-0.03),
        ),
        Scenario(
            name="predictions+5",
            sentence="It predicts 5 % more clicks than come.",
            effects=Effects(prediction=0.05),
        ),
        Scenario(
            name="predictions+20",
            sentence="It predicts 20 % more clicks than come.",
            effects=Effects(prediction=0.20),
        ),
        Scenario(
            name="blurred-scores",
            sentence="Its scores are right on average, but have lost much of what they knew.",
            effects=Effects(score_noise=0.5),
        ),
        Scenario(
            name="one-view-type",
            sentence=f"It loses 15 % of the clicks on {first} and nothing elsewhere.",
            effects=Effects(by_view_type={first: Effects(ctr=-0.15)}),
        ),
        Scenario(
            name="dead",
            sentence="Nobody ever clicks what it shows, and it does not know.",
            effects=Effects(ctr=-1.0, is_foreseen=False),
        ),
        Scenario(
            name="novelty",
            sentence="Its users click 5 % more at first and 3 % less once they are used to it.",
            effects=Effects(ctr=-0.03, novelty=0.08, novelty_half_life_days=2.0),
        ),
        Scenario(
            name="lost-users",
            sentence="Nothing is ever logged of 10 % of its users.",
            faults=Faults(lost_users=0.10),
        ),
        Scenario(
            name="feed-stops",
            sentence="An equal candidate; no event arrives for half a day.",
            faults=Faults(feed_stops_at_day=3.25),
        ),
        Scenario(
            name="serving-errors",
            sentence="It fails 3 % of its requests; stable answers those users.",
            faults=Faults(error_rate=0.03),
        ),
    )


def _ctr(name: str, lost: float) -> Scenario:
    return Scenario(
        name=name, sentence=f"It loses {lost:.0%} of the clicks.".replace("%", " %"), effects=Effects(ctr=-lost)
    )
