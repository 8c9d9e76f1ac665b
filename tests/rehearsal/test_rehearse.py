import pytest
from scipy import stats

from control_plane.domain.plan import RolloutPlan
from control_plane.rehearsal.rehearse import Rehearsal, proportion, rehearse
from control_plane.rehearsal.traffic import Audience, Effects
from tests.builders import a_plan

AUDIENCE = Audience(
    users=20_000, ctr=0.2, ctr_spread=0.3, impressions_per_day=2.0, view_types={"grid": 0.5, "list": 0.5}
)


def a_quick_plan(**overrides: object) -> RolloutPlan:
    """Margins that a few days of a small audience can show."""
    return a_plan(
        **{
            "steps": [{"share": "25%", "bake": "6h"}, {"share": "50%", "bake": "6h"}, {"share": "100%", "bake": "6h"}],
            "guardrails": [{"metric": "ctr", "harm_margin": "3%", "safe_margin": "12%"}],
            "calibration": {"epsilon": 0.03, "band": 0.2, "view_type_epsilon": 0.08, "view_type_band": 0.3},
            "judge": {"loss_budget": 0.1},
            "shadow": {"bake": "6h"},
            "min_days_before_full": 2,
            "check_every": "6h",
            "unwatched": "12h",
            **overrides,
        }
    )


def rehearsed(effects: Effects, *, runs: int = 3, seed: int = 1) -> Rehearsal:
    return rehearse(a_quick_plan(), audience=AUDIENCE, effects=effects, runs=runs, seed=seed)


def test_an_equal_candidate_reaches_full_traffic() -> None:
    rehearsal = rehearsed(Effects())

    assert rehearsal.ends() == {"done": 3}
    assert rehearsal.rolled_back.value == 0.0
    assert rehearsal.full_traffic_days is not None
    assert 2.0 <= rehearsal.full_traffic_days.median < 14.0
    assert rehearsal.detection_days is None


def test_a_harmful_candidate_is_rolled_back_and_the_delay_is_told() -> None:
    rehearsal = rehearsed(Effects(ctr=-0.15))

    assert rehearsal.rolled_back.value == 1.0
    assert rehearsal.detection_days is not None
    assert 0.0 < rehearsal.detection_days.median < 7.0
    assert rehearsal.candidate_impressions_at_rollback is not None
    assert rehearsal.candidate_impressions_at_rollback.median > 0


def test_a_model_that_lost_its_information_never_serves_anyone() -> None:
    rehearsal = rehearsed(Effects(score_noise=0.7))

    assert rehearsal.rolled_back.value == 1.0
    assert all(run.candidate_impressions == 0 for run in rehearsal.runs)


def test_equal_arguments_give_equal_answers() -> None:
    assert rehearsed(Effects(ctr=-0.05), runs=2) == rehearsed(Effects(ctr=-0.05), runs=2)


def test_approvals_do_not_stop_a_rehearsal() -> None:
    steps = [{"share": "50%", "bake": "6h", "approvals": 2}, {"share": "100%", "bake": "6h"}]

    rehearsal = rehearse(a_quick_plan(steps=steps), audience=AUDIENCE, effects=Effects(), runs=1, seed=1)

    assert rehearsal.ends() == {"done": 1}


@pytest.mark.parametrize(("runs", "looks"), [(0, 4), (3, 0)])
def test_no_runs_and_no_looks_are_refused(runs: int, looks: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        rehearse(a_quick_plan(), audience=AUDIENCE, effects=Effects(), runs=runs, seed=1, looks_per_day=looks)


@pytest.mark.parametrize(("count", "total"), [(0, 20), (7, 20), (20, 20)])
def test_a_proportion_has_the_interval_of_clopper_and_pearson(count: int, total: int) -> None:
    expected = stats.binomtest(count, total).proportion_ci(method="exact")

    found = proportion(count, total)

    assert (found.value, found.lower, found.upper) == pytest.approx((count / total, expected.low, expected.high))


@pytest.mark.slow
def test_the_whole_judge_rarely_rolls_an_equal_candidate_back() -> None:
    rehearsal = rehearsed(Effects(), runs=60, seed=7)

    print(f"equal candidates: {rehearsal.ends()}, rolled back at most {rehearsal.rolled_back.upper:.3f} (95 %)")
    assert rehearsal.rolled_back.value <= 0.05
