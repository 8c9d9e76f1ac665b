import pytest

from control_plane.domain.errors import UnknownName
from control_plane.domain.plan import RolloutPlan
from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.scenarios import Scenario, all_scenarios, scenarios
from control_plane.rehearsal.wishes import Wish, expectation
from tests.builders import a_plan
from tests.rehearsal.builders import a_scenario

SHARES = {"grid": 0.6, "closeup": 0.4}
ALL = {
    "guardrails": [{"metric": metric} for metric in ("ctr", "good_click_rate", "hide_rate", "revenue_per_impression")]
}


def wish(scenario: Scenario, plan: RolloutPlan | None = None) -> Wish:
    return expectation(plan or a_plan(**ALL), scenario, view_shares=SHARES).wish


def test_a_plan_that_guards_everything_is_to_answer_every_scenario() -> None:
    wishes = {scenario.name: wish(scenario) for scenario in all_scenarios(SHARES)}

    assert {name for name, found in wishes.items() if found is Wish.SHIP} == {"equal", "feed-stops"}
    assert {name for name, found in wishes.items() if found is Wish.TOLERATE} == {"ctr-1", "predictions+5"}
    assert (wishes["lost-users"], wishes["serving-errors"]) == (Wish.HOLD, Wish.ROLL_BACK)
    assert Wish.UNGUARDED not in wishes.values()


@pytest.mark.parametrize(
    ("effects", "found"),
    [
        (Effects(ctr=0.05), Wish.SHIP),
        (Effects(ctr=-0.005), Wish.TOLERATE),
        (Effects(ctr=-0.02), Wish.TOLERATE),
        (Effects(ctr=-0.03), Wish.STOP),
        (Effects(hide_rate=0.3), Wish.UNGUARDED),
        (Effects(hide_rate=-0.3), Wish.SHIP),
        (Effects(revenue_per_click=-0.5), Wish.UNGUARDED),
        (Effects(by_view_type={"grid": Effects(ctr=-0.2)}), Wish.STOP),
        (Effects(prediction=0.01), Wish.TOLERATE),
        (Effects(prediction=0.2), Wish.STOP),
        (Effects(prediction=-0.2), Wish.STOP),
    ],
)
def test_the_plans_margins_decide_what_is_wished_for(effects: Effects, found: Wish) -> None:
    assert wish(a_scenario(effects), a_plan()) is found


def test_a_metric_that_is_only_monitored_is_not_guarded() -> None:
    plan = a_plan(guardrails=[{"metric": "ctr"}, {"metric": "hide_rate", "role": "monitor"}])

    told = expectation(plan, a_scenario(Effects(hide_rate=0.3)), view_shares=SHARES)

    assert told.wish is Wish.UNGUARDED
    assert "hide rate" in told.sentence


def test_the_equal_candidate_is_always_there_and_names_are_checked() -> None:
    assert [scenario.name for scenario in scenarios(["dead"], view_types=SHARES)] == ["equal", "dead"]
    with pytest.raises(UnknownName, match="no fault 'deed'; known: equal"):
        scenarios(["deed"], view_types=SHARES)
