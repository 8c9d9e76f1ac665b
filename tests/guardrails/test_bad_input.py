"""What nobody should hand to the judge: a typed error or a named outcome, never an advance, never a warning."""

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control_plane.domain.errors import ControlPlaneError, InvalidMoments, InvalidPlan
from control_plane.domain.moments import Health, Measure, Moments, ServingCounts, Stratum
from control_plane.domain.plan import OperationalMetric, OperationalPlan, RolloutPlan
from control_plane.domain.readings import Reading, ReadingOutcome
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Outcome, Rule, Verdict
from control_plane.guardrails.judge import judge
from control_plane.guardrails.replay import MAGIC, pack, replay
from tests.guardrails.builders import (
    DAY_MS,
    FIRST_DAY,
    START_MS,
    a_health,
    a_judged_plan,
    a_stage,
    empty_moments,
    packed_sums,
    plane,
    shadow_moments,
    simulated_moments,
    sums_of,
    with_sums,
)
from tests.guardrails.test_judge import LENIENT, WIDE, at_full_traffic, finding

VALUE, FAILED = ReadingOutcome.VALUE, ReadingOutcome.FAILED


@lru_cache
def drawn(phase: Phase) -> Moments:
    rng = np.random.default_rng(1)
    match phase:
        case Phase.SHADOW:
            return shadow_moments(rng, noise=0.02)
        case Phase.WATCHING:
            return at_full_traffic(drawn(Phase.RAMPING))
        case _:
            return simulated_moments(rng, impressions=600_000)


def good_moments(phase: Phase = Phase.RAMPING) -> Moments:
    """Which advance; the caller's own, to spoil."""
    return deepcopy(drawn(phase))


def stage_in(phase: Phase) -> Stage:
    generation = 2 if phase is Phase.WATCHING else 1
    entered_at_ms = drawn(phase).as_of_ms - DAY_MS
    return a_stage(phase, generation=generation, stage_generation=generation, entered_at_ms=entered_at_ms)


def good_plan(**overrides: object) -> RolloutPlan:
    return a_judged_plan(**{"judge": LENIENT, "calibration": WIDE, **overrides})


def judged(
    moments: Moments | None = None,
    *,
    health: Health | None = None,
    readings: tuple[Reading, ...] = (),
    **plan: object,
) -> Verdict:
    return judge(good_plan(**plan), a_stage(), moments or good_moments(), health or a_health(), readings)


def read(value: float | None, outcome: ReadingOutcome = VALUE, *, name: str = "depth", detail: str = "") -> Reading:
    return Reading(name=name, outcome=outcome, value=value, sampled_at_ms=None, query="avg(depth)", detail=detail)


def external(**overrides: object) -> list[dict[str, object]]:
    return [{"name": "depth", "source": "prod", "query": "avg(depth)", "at_least": 3.5, "role": "gate", **overrides}]


def test_what_the_cases_below_spoil_advances_while_it_is_whole() -> None:
    assert judged().outcome is Outcome.ADVANCE
    assert judged(external=external(), readings=(read(5.0),)).outcome is Outcome.ADVANCE


def refused(spoil: Callable[[Moments], Moments]) -> str:
    with pytest.raises(InvalidMoments) as error:
        judged(spoil(good_moments()))
    return error.value.field


@pytest.mark.parametrize(
    "field", ["users_A", "cross_exposed_users", "as_of_ms", "newest_event_ms", "candidate_newest_ms", "counts_MGSAK"]
)
def test_moments_with_nan_are_refused(field: str) -> None:
    broken: dict[str, Any] = {
        "users_A": (500_000, np.nan),
        "counts_MGSAK": good_moments().counts_MGSAK * np.nan,
    }
    spoiled: dict[str, Any] = {field: broken.get(field, float("nan"))}

    assert refused(lambda moments: replace(moments, **spoiled)) == field


def test_negative_counts_are_refused() -> None:
    def spoil(moments: Moments) -> Moments:
        plane(moments, Measure.CLICK)[1, 0, 1, 7] = -1
        return moments

    assert refused(spoil) == "counts_MGSAK"


@pytest.mark.parametrize("measure", [Measure.CLICK, Measure.GOOD_CLICK, Measure.HIDE])
def test_labels_above_impressions_are_refused(measure: Measure) -> None:
    def spoil(moments: Moments) -> Moments:
        plane(moments, measure)[0, 0, 1, 7] = plane(moments, Measure.IMPRESSIONS)[0, 0, 1, 7] + 1
        return moments

    assert refused(spoil) == f"counts_MGSAK.{measure.name}"


def test_labels_above_impressions_in_the_days_before_are_refused() -> None:
    def spoil(moments: Moments) -> Moments:
        before = sums_of(moments)[:, 0].transpose(3, 0, 1, 2).copy()
        before[Measure.CLICK] = before[Measure.IMPRESSIONS] + 1
        return replace(moments, before_MGAK=before)

    assert refused(spoil) == "before_MGAK.CLICK"


@pytest.mark.parametrize("field", ["reliability_GACBR", "shadow_reliability_GACBR"])
def test_clicks_above_impressions_by_score_are_refused(field: str) -> None:
    def spoil(moments: Moments) -> Moments:
        getattr(moments, field)[0, 1, 3, 5] = 10, 0, 11
        return moments

    assert refused(spoil) == f"{field}.CLICK"


@pytest.mark.parametrize(
    ("measure", "value"), [(Measure.REVENUE, 2**62), (Measure.REVENUE, 2**63 - 1), (Measure.SCORE, 2**62)]
)
def test_overflowing_sums_are_refused(measure: Measure, value: int) -> None:
    def spoil(moments: Moments) -> Moments:
        plane(moments, measure)[0, 0, 1, 7] = value
        return moments

    assert refused(spoil).startswith("values_MGSAK")


def test_sums_whose_total_alone_overflows_are_refused() -> None:
    def spoil(moments: Moments) -> Moments:
        plane(moments, Measure.REVENUE)[:] = 2**56
        return moments

    assert refused(spoil) == "values_MGSAK"


def test_counts_by_score_whose_product_overflows_are_refused() -> None:
    def spoil(moments: Moments) -> Moments:
        moments.reliability_GACBR[0, 1, 3, 5] = 2**45, 0, 2**45
        return moments

    assert refused(spoil) == "reliability_GACBR.IMPRESSIONS"


@pytest.mark.parametrize("arm", list(Arm))
def test_an_arm_without_a_single_impression_holds(arm: Arm) -> None:
    moments = good_moments()
    sums = sums_of(moments)
    sums[:, :, arm] = 0

    verdict = judged(with_sums(moments, sums))

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.INSUFFICIENT)
    assert finding(verdict, "ctr").answer is Answer.NO_DATA


def test_all_users_in_one_bucket_hold() -> None:
    moments = good_moments()
    sums = np.zeros_like(sums_of(moments))
    sums[..., 7, :] = sums_of(moments).sum(axis=3)

    verdict = judged(with_sums(moments, sums))

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.INSUFFICIENT)
    assert "1 of 30 buckets" in verdict.reason


def test_moments_of_one_bucket_in_all_hold() -> None:
    moments = good_moments()
    sums = sums_of(moments).sum(axis=3, keepdims=True)
    bare = empty_moments(strata=moments.strata, buckets=1)
    kept = {name: getattr(moments, name) for name in ("users_A", "draws", "newest_event_ms")}

    verdict = judged(replace(bare, **packed_sums(sums), **kept, candidate_newest_ms=moments.candidate_newest_ms))

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.INSUFFICIENT)


def test_no_strata_at_all_hold() -> None:
    verdict = judged(empty_moments())

    assert verdict.outcome is Outcome.HOLD


@pytest.mark.parametrize("margins", [(0.03, 0.03), (0.05, 0.03)])
def test_a_harm_margin_that_is_not_below_the_safe_one_is_refused(margins: tuple[float, float]) -> None:
    with pytest.raises(InvalidPlan, match=r"guardrails\[0\].harm_margin"):
        judged(guardrails=[{"metric": "ctr", "harm_margin": margins[0], "safe_margin": margins[1]}])


def test_weights_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(InvalidPlan, match=r"judge.tau_weights.*sum to 1, not 0.9"):
        judged(judge={"tau_weights": [0.4, 0.4, 0.1]})


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda plan: replace(plan, guardrails=(replace(plan.guardrails[0], harm_margin=0.5),)), "harm_margin"),
        (lambda plan: replace(plan, guardrails=(replace(plan.guardrails[0], safe_margin=np.nan),)), "safe_margin"),
        (lambda plan: replace(plan, judge=replace(plan.judge, tau_weights=(1.0, 1.0, 1.0))), "tau_weights"),
        (lambda plan: replace(plan, judge=replace(plan.judge, alpha_advance=np.nan)), "alpha_advance"),
        (lambda plan: replace(plan, judge=replace(plan.judge, loss_budget=np.inf)), "loss_budget"),
        (lambda plan: replace(plan, calibration=replace(plan.calibration, band=np.nan)), "band"),
        (lambda plan: replace(plan, steps=plan.steps[:-1]), "share"),
        (lambda plan: replace(plan, check_seconds=np.nan), "check_every"),
    ],
)
def test_a_plan_that_could_not_be_read_is_refused_by_the_judge_too(
    spoil: Callable[[RolloutPlan], RolloutPlan], field: str
) -> None:
    with pytest.raises(InvalidPlan, match=field):
        judge(spoil(good_plan()), a_stage(), good_moments(), a_health())


@pytest.mark.parametrize("limit", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_an_operational_limit_that_limits_nothing_is_refused(limit: float) -> None:
    for metric in OperationalMetric:
        with pytest.raises(InvalidPlan, match=r"operational\[0\].limit"):
            good_plan(operational=[{"metric": metric.value, "limit": limit}])
        broken = replace(good_plan(), operational=(OperationalPlan(metric=metric, limit=limit),))
        with pytest.raises(InvalidPlan, match=r"operational\[0\].limit"):
            judge(broken, a_stage(), good_moments(), a_health())


def test_external_limits_that_cross_are_refused() -> None:
    with pytest.raises(InvalidPlan, match=r"external\[0\].at_least.*above at_most"):
        good_plan(external=external(at_least=2.0, at_most=1.0))


@pytest.mark.parametrize("limits", [{"at_least": np.nan}, {"at_most": np.nan}, {"at_least": None, "at_most": np.inf}])
def test_external_limits_that_limit_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(InvalidPlan, match=r"external\[0\].at_"):
        good_plan(external=external(**limits))
    (entry,) = good_plan(external=external()).external
    changed: dict[str, Any] = limits
    broken = replace(good_plan(), external=(replace(entry, **changed),))
    with pytest.raises(InvalidPlan, match=r"external\[0\].at_"):
        judge(broken, a_stage(), good_moments(), a_health(), (read(5.0),))


@pytest.mark.parametrize("values", [(5.0, 1.0), (1.0, 5.0), (5.0, 5.0)])
def test_a_metric_that_was_read_twice_has_not_been_read(values: tuple[float, float]) -> None:
    verdict = judged(external=external(), readings=tuple(read(value) for value in values))

    assert (verdict.outcome, verdict.rule) == (Outcome.HOLD, Rule.INSUFFICIENT)
    assert finding(verdict, "external:depth").answer is Answer.FAILED
    assert "could not be read: two answers came where one was asked for" in verdict.reason


def test_a_metric_that_nobody_read_has_failed() -> None:
    verdict = judged(external=external())

    assert (verdict.outcome, finding(verdict, "external:depth").answer) == (Outcome.HOLD, Answer.FAILED)
    assert "nobody asked" in verdict.reason


def test_a_reading_for_no_metric_of_the_plan_changes_nothing() -> None:
    with_it, without = (
        judged(external=external(), readings=readings).to_json()
        for readings in ((read(5.0), read(-1.0, name="other")), (read(5.0),))
    )

    assert with_it == without


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_a_reading_that_claims_to_be_a_value_and_is_none_is_no_number(value: float | None) -> None:
    verdict = judged(external=external(), readings=(read(value),))

    assert verdict.outcome is Outcome.HOLD
    assert finding(verdict, "external:depth").answer is Answer.NAN
    assert "depth from prod is no number" in verdict.reason


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
@pytest.mark.parametrize("outcome", [outcome for outcome in ReadingOutcome if outcome is not VALUE])
@pytest.mark.parametrize("limits", [{"at_least": 3.5}, {"at_least": None, "at_most": 9.0}])
def test_a_gate_on_another_systems_number_stays_shut_without_one(
    phase: Phase, outcome: ReadingOutcome, limits: dict[str, float | None]
) -> None:
    whole, spoiled = (in_phase(phase, external(**limits), reading) for reading in (read(5.0), read(None, outcome)))

    assert whole.outcome is Outcome.ADVANCE
    assert spoiled.outcome is Outcome.HOLD
    assert spoiled.completes_check
    assert "depth from prod" in spoiled.reason


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
@pytest.mark.parametrize(
    ("policy", "outcome", "needs_person"), [("hold", Outcome.HOLD, True), ("roll_back", Outcome.ROLL_BACK, False)]
)
def test_a_policy_for_a_source_that_fails_is_kept_in_every_phase(
    phase: Phase, policy: str, outcome: Outcome, needs_person: bool
) -> None:
    verdict = in_phase(phase, external(on_failed=policy), read(None, FAILED))

    assert (verdict.outcome, verdict.rule) == (outcome, Rule.MISSING_EVIDENCE)
    assert verdict.needs_person is needs_person


def in_phase(phase: Phase, metrics: list[dict[str, object]], reading: Reading) -> Verdict:
    """Of evidence that advances, save for what `reading` says."""
    return judge(good_plan(external=metrics), stage_in(phase), good_moments(phase), a_health(), (reading,))


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
@pytest.mark.parametrize("name", ["requests", "errors", "timeouts", "scores", "bad_scores", "distinct_scores"])
@pytest.mark.parametrize("value", [np.nan, -1, 0.5, 2**70])
def test_health_with_impossible_counts_never_advances(phase: Phase, name: str, value: float) -> None:
    counts: dict[str, Any] = {"requests": 10_000, "scores": 10_000, "distinct_scores": 1_000, name: value}
    health = replace(a_health(), candidate=ServingCounts(**counts))

    assert judge(good_plan(), stage_in(phase), good_moments(phase), health).outcome is not Outcome.ADVANCE


REPLAYER = """
import pathlib, sys
from control_plane.guardrails.replay import replay
for path in sys.argv[1:]:
    print(replay(pathlib.Path(path).read_bytes()).outcome)
"""


def test_nothing_is_said_on_stderr_about_evidence_of_every_extreme_kind(tmp_path: Path) -> None:
    metrics = ("ctr", "good_click_rate", "hide_rate", "revenue_per_impression")
    everything: Any = {"guardrails": [{"metric": metric} for metric in metrics]}
    paths = [tmp_path / str(index) for index in range(4)]
    for path, moments in zip(paths, (empty_moments(), extreme(2**23), extreme(0), extreme(1)), strict=True):
        path.write_bytes(pack(good_plan(**everything), a_stage(), moments, a_health()))

    told = subprocess.run([sys.executable, "-W", "default", "-c", REPLAYER, *paths], capture_output=True, check=True)

    assert told.stderr == b""
    assert len(told.stdout.split()) == 4
    assert b"advance" not in told.stdout


def extreme(size: int) -> Moments:
    """Cells of `size` impressions, all of them clicked, hidden and scored 1 by the candidate, none by stable."""
    moments = good_moments()
    sums = np.zeros_like(sums_of(moments))
    sums[..., : Measure.REVENUE] = size
    sums[0, ..., : Measure.REVENUE] = 2 * size
    sums[..., Measure.SCORE] = sums[..., Measure.MATURED_CLICK] * 1_000_000
    sums[..., Measure.REVENUE] = size * 10**6
    sums[:, :, Arm.STABLE, :, Measure.CLICK] = 0
    return with_sums(moments, sums)


def header_of(packed: bytes) -> tuple[dict[str, Any], bytes]:
    content = zlib.decompress(packed.removeprefix(MAGIC))
    length = int.from_bytes(content[:8], "big")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: object, body: bytes) -> bytes:
    told = json.dumps(header).encode()
    return MAGIC + zlib.compress(len(told).to_bytes(8, "big") + told + body, 1)


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of everything in a JSON document, three of each list."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def altered(value: Any, path: tuple[Any, ...], put: object) -> Any:
    if not path:
        return put
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = altered(value[path[0]], path[1:], put)
    return copied


ODD: tuple[Any, ...] = (None, -1, 1e400, 10**400, 2**63, "x", [], {}, True, 0.5, float("nan"))


@pytest.mark.parametrize("put", ODD, ids=lambda put: repr(put)[:12])
def test_stored_inputs_that_someone_altered_are_judged_or_refused_wherever_it_was(put: object) -> None:
    strata = (Stratum(day=FIRST_DAY, generation=1, candidate_bp=2_500),)
    moments = replace(empty_moments(strata=strata, buckets=2), newest_event_ms=START_MS, candidate_newest_ms=START_MS)
    plan = good_plan(external=external(), operational=[{"metric": "latency_p99_ms", "limit": 40}])
    header, body = header_of(pack(plan, a_stage(), moments, a_health(), (read(5.0),)))

    for path in places(header):
        try:
            verdict = replay(with_header(altered(header, path, put), body))
        except ControlPlaneError:
            continue
        assert Verdict.from_json(verdict.to_json()).outcome is not Outcome.ADVANCE
