import json

import pytest

from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Rule
from control_plane.rehearsal.audience import Effects, Faults
from control_plane.rehearsal.run import Ending, Run, run
from control_plane.rehearsal.sources import FIRST_MONDAY_MS
from control_plane.rehearsal.traffic import Traffic
from tests.rehearsal.builders import AUDIENCE, a_quick_plan


def ended(
    effects: Effects | None = None, faults: Faults | None = None, *, seed: int = 1, plan: RolloutPlan | None = None
) -> Run:
    plan = plan or a_quick_plan()
    traffic = Traffic(plan, AUDIENCE, effects or Effects(), faults, seed=seed, started_at_ms=FIRST_MONDAY_MS)
    return run(plan, traffic, started_at_ms=FIRST_MONDAY_MS, looks_per_day=4)


def test_an_equal_candidate_reaches_full_traffic_at_no_cost() -> None:
    found = ended()

    assert (found.ending, found.phase) == (Ending.SHIPPED, Phase.DONE)
    assert [share for _, share in found.path] == [0, 2_500, 5_000, 10_000, 10_000]
    assert found.harmed_impressions == 0
    assert found.lost == {"clicks": 0, "good_clicks": 0, "hides": 0, "revenue": 0}


def test_a_harmful_candidate_is_rolled_back_and_the_cost_is_told() -> None:
    found = ended(Effects(ctr=-0.3))

    assert found.ending is Ending.ROLLED_BACK
    assert 0 < found.days_of_traffic < 7
    assert found.harmed_impressions == found.candidate_impressions > 0
    assert found.lost["clicks"] == pytest.approx(0.3 * 0.2 * found.candidate_impressions, rel=0.1)
    assert found.lost["revenue"] == pytest.approx(0.5 * found.lost["clicks"])
    assert any(culprit.startswith("ctr/") for culprit in found.culprits)


def test_a_model_that_lost_its_information_never_serves_anyone() -> None:
    found = ended(Effects(score_noise=0.7))

    assert found.ending is Ending.ROLLED_BACK
    assert found.candidate_impressions == 0
    assert found.days_of_traffic == 0


def test_failing_requests_are_a_hard_stop() -> None:
    found = ended(faults=Faults(error_rate=0.05))

    assert (found.ending, found.rule) == (Ending.ROLLED_BACK, Rule.HARD_STOP)


def test_a_feed_that_stops_is_waited_for() -> None:
    stopped, steady = ended(faults=Faults(feed_stops_at_day=0.3)), ended()

    assert stopped.ending is steady.ending is Ending.SHIPPED
    assert stopped.days >= steady.days


def test_what_is_never_shown_runs_out_of_time() -> None:
    gate = {"metric": "ctr", "harm_margin": "0.1%", "safe_margin": "0.2%"}
    plan = a_quick_plan(max_stage="2d", guardrails=[gate], judge={"loss_budget": "0.1%"})

    found = ended(plan=plan)

    assert found.ending is Ending.TIMED_OUT
    assert "ctr/*" in found.open_gates


def test_approvals_do_not_stop_a_rehearsal() -> None:
    steps = [{"share": "50%", "bake": "6h", "approvals": 2}, {"share": "100%", "bake": "6h"}]

    assert ended(plan=a_quick_plan(steps=steps)).ending is Ending.SHIPPED


def test_what_other_systems_tell_is_within_the_plans_limits() -> None:
    plan = a_quick_plan(
        operational=[
            {"metric": "latency_p99_ms", "limit": 5, "role": "gate"},
            {"metric": "error_rate", "limit": 0.01, "role": "gate"},
            {"metric": "dedup_ratio", "limit": 9.5, "role": "gate"},
            {"metric": "feature_coverage", "limit": 0.95, "role": "gate"},
            {"metric": "gate_entropy", "limit": 0.2, "role": "gate"},
        ],
        external=[
            {"name": "pages", "source": "prometheus", "query": "up", "at_most": 3, "role": "gate"},
            {"name": "depth", "source": "prometheus", "query": "up", "at_least": 3, "role": "gate"},
            {"name": "between", "source": "prometheus", "query": "up", "at_least": 3, "at_most": 4, "role": "gate"},
        ],
    )

    assert ended(plan=plan).ending is Ending.SHIPPED


def test_a_run_reads_back_from_json() -> None:
    found = ended(Effects(ctr=-0.3))

    assert Run.from_json(json.loads(json.dumps(found.to_json()))) == found
