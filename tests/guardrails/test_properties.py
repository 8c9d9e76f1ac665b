"""What holds of every verdict, whatever the evidence: hunted for with the nastiest sums that a log can produce."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidMoments, InvalidPlan
from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_SCORE_BINS,
    Health,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    ServingCounts,
    Stratum,
)
from control_plane.domain.plan import OperationalMetric, RolloutPlan
from control_plane.domain.readings import Reading, ReadingOutcome
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.domain.verdict import Finding, Outcome, Verdict
from control_plane.guardrails.judge import judge
from control_plane.guardrails.look import Look
from control_plane.guardrails.replay import pack, replay
from tests.guardrails.builders import (
    FIRST_DAY,
    START_MS,
    a_judged_plan,
    a_stage,
    draws_of,
    empty_moments,
    sums_of,
    with_sums,
)

IntArray = NDArray[np.int64]

MOST = 2**30  # impressions of a bucket over all strata
ENGAGEMENT = ("ctr", "good_click_rate", "hide_rate", "revenue_per_impression")
SEARCH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
JUDGED = (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING)
MATURED = (
    Measure.MATURED_CLICK,
    Measure.MATURED_GOOD_CLICK,
    Measure.MATURED_HIDE,
    Measure.MATURED_REVENUE,
)
LABELS = {
    Measure.CLICK: Measure.MATURED_CLICK,
    Measure.GOOD_CLICK: Measure.MATURED_GOOD_CLICK,
    Measure.HIDE: Measure.MATURED_HIDE,
}
EVERY_LIMIT = [
    {"metric": metric.value, "limit": 0.5, "role": role}
    for metric, role in zip(OperationalMetric, ["gate", "guard", "hold", "monitor"] * 3, strict=False)
]
OTHERS = [
    {"name": "depth", "source": "prod", "query": "a", "at_least": 3.5, "role": "gate"},
    {"name": "spend", "source": "prod", "query": "b", "at_most": 9.0, "role": "hold"},
    {"name": "both", "source": "prod", "query": "c", "at_least": 1.0, "at_most": 2.0, "role": "guard"},
]


@dataclass(frozen=True, kw_only=True)
class Nasty:
    """How the sums of one example are drawn. `size` is a cell's mean impressions."""

    seed: int
    size: int
    view_types: tuple[str, ...]
    shares: tuple[int, ...]
    buckets: int
    sparsity: float
    ctr: float
    shape: str


def nasty() -> st.SearchStrategy[Nasty]:
    return st.builds(
        Nasty,
        seed=st.integers(0, 2**32 - 1),
        size=st.sampled_from([0, 1, 30, 30, 1_000, 2**20]),
        view_types=st.sampled_from([(), ("grid",), ("grid", "closeup", "story"), ("маленький", "视图", "🙂 ‮x")]),
        shares=st.sampled_from([(), (0,), (2_500,), (1, 9_999), (0, 100, 2_500, 5_000, 10_000), (2_500,) * 40]),
        buckets=st.sampled_from([1, 2, 40, NUM_BUCKETS]),
        sparsity=st.sampled_from([0.0, 0.0, 0.5, 0.99]),
        ctr=st.sampled_from([0.0, 0.02, 0.02, 0.5, 1.0]),
        shape=st.sampled_from(
            [
                "plain",
                "plain",
                "one bucket",
                "one user",
                "one arm",
                "missing arms",
                "revenue only",
                "all hidden",
                "whale",
            ]
        ),
    )


def moments_of(nasty: Nasty, *, effect: float = 0.0) -> Moments:
    rng = np.random.default_rng(nasty.seed)
    strata = tuple(
        Stratum(day=FIRST_DAY + day // 2, generation=1 + day, candidate_bp=share)
        for day, share in enumerate(nasty.shares)
    )
    moments = empty_moments(strata=strata, view_types=nasty.view_types, buckets=nasty.buckets)
    shape = (max(1, len(nasty.view_types)), len(strata), len(Arm), nasty.buckets)
    shown_VSAK = rng.poisson(nasty.size, size=shape).astype(np.int64)
    shown_VSAK[rng.random(shape) < nasty.sparsity] = 0
    SHAPES[nasty.shape](shown_VSAK, rng)
    shown_VSAK = np.minimum(shown_VSAK, MOST // (len(Arm) * max(1, len(strata)) * shape[0]))
    sums_VSAKM = _labelled(nasty, shown_VSAK, rng, effect)
    whole = sums_VSAKM.sum(axis=0, keepdims=True)
    sums = np.concatenate([whole, sums_VSAKM]) if nasty.view_types else whole
    stable, candidate = sums[0, :, :, :, Measure.IMPRESSIONS].sum(axis=(0, 2)).tolist()
    first_SA = sums[0, :, :, :, Measure.IMPRESSIONS].sum(axis=2) // 10
    told = replace(
        with_sums(moments, sums),
        users_A=(stable, candidate),
        draws=draws_of(strata, first_SA),
        newest_event_ms=moments.as_of_ms - 1,
        candidate_newest_ms=moments.as_of_ms - 1,
    )
    return _with_scores(told, rng)


def _one_bucket(shown_VSAK: IntArray, rng: np.random.Generator) -> None:
    shown_VSAK[..., 1:] = 0


def _one_user(shown_VSAK: IntArray, rng: np.random.Generator) -> None:
    shown_VSAK[:] = 0
    shown_VSAK[..., :1] = 1


def _one_arm(shown_VSAK: IntArray, rng: np.random.Generator) -> None:
    shown_VSAK[:, :, rng.integers(2)] = 0


def _missing_arms(shown_VSAK: IntArray, rng: np.random.Generator) -> None:
    shown_VSAK *= rng.random((*shown_VSAK.shape[:3], 1)) < 0.5


def _whale(shown_VSAK: IntArray, rng: np.random.Generator) -> None:
    shown_VSAK[..., 0] *= 100


def _as_drawn(shown_VSAK: IntArray, rng: np.random.Generator) -> None:
    pass


SHAPES: dict[str, Callable[[IntArray, np.random.Generator], None]] = {
    "plain": _as_drawn,
    "one bucket": _one_bucket,
    "one user": _one_user,
    "one arm": _one_arm,
    "missing arms": _missing_arms,
    "revenue only": _as_drawn,
    "all hidden": _as_drawn,
    "whale": _whale,
}


def _labelled(nasty: Nasty, shown: IntArray, rng: np.random.Generator, effect: float) -> IntArray:
    """(V, S, A, K, M)."""
    sums = np.zeros((*shown.shape, len(Measure)), dtype=np.int64)
    sums[..., Measure.IMPRESSIONS] = shown
    for matured in MATURED:
        sums[..., matured] = rng.binomial(shown, rng.choice([0.0, 0.5, 1.0, 1.0, 1.0]))
    rate_A = np.clip([nasty.ctr, nasty.ctr * (1 + effect)], 0.0, 1.0)[:, None]
    for label, matured in LABELS.items():
        sums[..., label] = rng.binomial(sums[..., matured], np.broadcast_to(rate_A, shown.shape))
    if nasty.shape == "revenue only":
        sums[..., [Measure.CLICK, Measure.GOOD_CLICK, Measure.HIDE]] = 0
    if nasty.shape == "all hidden":
        sums[..., Measure.HIDE] = sums[..., Measure.MATURED_HIDE]
    revenue = rng.gamma(0.1 + sums[..., Measure.MATURED_REVENUE] * nasty.ctr) * FIXED_POINT
    sums[..., Measure.REVENUE] = np.rint(np.where(sums[..., Measure.MATURED_REVENUE] > 0, revenue, 0.0))
    score = rng.choice([0.0, nasty.ctr, 1.0], p=[0.1, 0.8, 0.1])
    sums[..., Measure.SCORE] = np.rint(sums[..., Measure.MATURED_CLICK] * score * FIXED_POINT)
    return sums


def _with_scores(moments: Moments, rng: np.random.Generator) -> Moments:
    """Shadow pairs and tables by score, of as many impressions as the surface has in all."""
    shown_GK = moments.sums_of(Measure.IMPRESSIONS).sum(axis=(1, 2))
    matured_GK = np.minimum(rng.binomial(shown_GK, 0.9), shown_GK)
    click_GK = rng.binomial(matured_GK, rng.choice([0.0, 0.1, 1.0]))
    pairs = moments.pairs_GKP
    pairs[..., PairMeasure.PAIRS], pairs[..., PairMeasure.MATURED] = shown_GK, matured_GK
    pairs[..., PairMeasure.CLICK] = click_GK
    for measure in range(PairMeasure.SCORE_STABLE, PairMeasure.LOG_RATIO):
        pairs[..., measure] = np.rint(matured_GK * rng.choice([0.0, 0.1, 1.0]) * FIXED_POINT)
    pairs[..., PairMeasure.LOG_RATIO] = np.rint(shown_GK * rng.normal() * FIXED_POINT)
    moments.score_bins_GAKB[..., rng.integers(NUM_SCORE_BINS)] = np.minimum(shown_GK, 2**20)[:, None]
    moments.score_bins_GAKB[:, 1, :, rng.integers(NUM_SCORE_BINS)] += np.minimum(shown_GK, 2**20).astype(np.int32)
    moments.score_pairs_CBB[:, :, rng.integers(NUM_SCORE_BINS)] = rng.integers(0, 5, (NUM_COARSE_BUCKETS, 1))
    for table in (moments.reliability_GACBR, moments.shadow_reliability_GACBR):
        table[..., ReliabilityMeasure.IMPRESSIONS] = rng.poisson(rng.choice([0.0, 0.1, 50.0]), table.shape[:-1])
        shown = table[..., ReliabilityMeasure.IMPRESSIONS]
        table[..., ReliabilityMeasure.CLICK] = rng.binomial(shown, rng.choice([0.0, 0.1, 1.0]))
        table[..., ReliabilityMeasure.SCORE] = np.rint(shown * rng.choice([0.0, 0.1, 1.0]) * FIXED_POINT)
    before = sums_of(moments).sum(axis=1).transpose(3, 0, 1, 2).copy()
    return replace(moments, before_MGAK=before if rng.random() < 0.5 and moments.strata else None)


def a_full_plan(**overrides: object) -> RolloutPlan:
    """Whatever can be guarded is."""
    whole = {
        "guardrails": [{"metric": metric, "role": "gate"} for metric in ENGAGEMENT],
        "operational": EVERY_LIMIT,
        "external": OTHERS,
    }
    return a_judged_plan(**{**whole, **overrides})


def a_stage_of(phase: Phase, moments: Moments) -> Stage:
    generation = max((stratum.generation for stratum in moments.strata), default=1)
    return a_stage(phase, generation=generation, stage_generation=generation if phase is Phase.WATCHING else 1)


def sound_health() -> Health:
    counts = ServingCounts(requests=10_000, scores=10_000, distinct_scores=1_000, calls=5_000)
    return Health(stable=counts, candidate=counts, live_runtimes=2, acknowledged_runtimes=2)


def some_readings() -> tuple[Reading, ...]:
    return tuple(
        Reading(name=name, outcome=ReadingOutcome.VALUE, value=value, sampled_at_ms=START_MS, query="q")
        for name, value in (("depth", 5.0), ("spend", 1.0), ("both", 1.5))
    )


def judged(moments: Moments, phase: Phase = Phase.RAMPING, **plan: object) -> Verdict:
    return judge(a_full_plan(**plan), a_stage_of(phase, moments), moments, sound_health(), some_readings())


# --- merging -------------------------------------------------------------------------------------------------------

SUMMED = (
    "counts_MGSAK",
    "values_MGSAK",
    "pairs_GKP",
    "score_bins_GAKB",
    "score_pairs_CBB",
    "reliability_GACBR",
    "shadow_reliability_GACBR",
)


def merged(parts: Sequence[Moments]) -> Moments:
    sums: dict[str, Any] = {name: getattr(parts[0], name).copy() for name in SUMMED}
    for part in parts[1:]:
        for name in SUMMED:
            sums[name] += getattr(part, name)
    users: Any = tuple(int(np.sum([part.users_A[arm] for part in parts])) for arm in Arm)
    draws = tuple(
        replace(same[0], stable=sum(one.stable for one in same), candidate=sum(one.candidate for one in same))
        for same in zip(*(part.draws for part in parts), strict=True)
    )
    return replace(parts[0], **sums, users_A=users, draws=draws)


@SEARCH
@given(drawn=nasty(), order=st.permutations(range(5)), cut=st.integers(1, 4), phase=st.sampled_from(JUDGED))
def test_evidence_merged_in_any_order_and_grouping_is_the_same_verdict(
    drawn: Nasty, order: list[int], cut: int, phase: Phase
) -> None:
    assume(drawn.size <= 1_000)
    parts = [replace(moments_of(replace(drawn, seed=drawn.seed + part)), before_MGAK=None) for part in range(5)]
    shuffled = [parts[index] for index in order]

    straight, grouped = merged(parts), merged([merged(shuffled[:cut]), merged(shuffled[cut:])])

    assert judged(straight, phase).to_json() == judged(grouped, phase).to_json()


# --- swapping the arms ---------------------------------------------------------------------------------------------


def swapped(moments: Moments) -> Moments:
    counts, values = moments.counts_MGSAK[:, :, :, ::-1], moments.values_MGSAK[:, :, :, ::-1]
    before = moments.before_MGAK
    return replace(
        moments,
        counts_MGSAK=np.ascontiguousarray(counts),
        values_MGSAK=np.ascontiguousarray(values),
        before_MGAK=None if before is None else np.ascontiguousarray(before[:, :, ::-1]),
        users_A=moments.users_A[::-1],
        draws=tuple(replace(draw, stable=draw.candidate, candidate=draw.stable) for draw in moments.draws),
    )


@SEARCH
@given(drawn=nasty(), effect=st.sampled_from([-0.9, -0.03, 0.0, 0.03]))
def test_swapping_the_arms_flips_every_log_ratio_to_the_last_bit(drawn: Nasty, effect: float) -> None:
    moments = moments_of(drawn, effect=effect)
    plan, stage = a_full_plan(), a_stage_of(Phase.RAMPING, moments)
    here, there = (Look(plan=plan, stage=stage, moments=one) for one in (moments, swapped(moments)))
    for straight, flipped in zip(here.ratios, there.ratios, strict=True):
        np.testing.assert_array_equal(flipped.theta_H, -straight.theta_H)
        np.testing.assert_array_equal(flipped.se_H, straight.se_H)
        np.testing.assert_array_equal(flipped.buckets_H, straight.buckets_H)


@SEARCH
@given(drawn=nasty(), effect=st.sampled_from([-0.3, -0.03, 0.0, 0.03]))
def test_swapping_the_arms_flips_every_effect_of_the_verdict(drawn: Nasty, effect: float) -> None:
    moments = moments_of(drawn, effect=effect)

    straight, flipped = engagement(judged(moments)), engagement(judged(swapped(moments)))

    for here, there in zip(straight, flipped, strict=True):
        assert (here.impressions_stable, here.impressions_candidate) == (
            there.impressions_candidate,
            there.impressions_stable,
        )
        if here.effect is None or there.effect is None:
            continue  # the gate of harm looks at what stable's rates promise, so it may open for one side alone
        assert there.standard_error == here.standard_error
        assert math.log1p(there.effect) == pytest.approx(-math.log1p(here.effect), rel=1e-12, abs=1e-15)
        assert here.upper is not None
        assert there.lower is not None
        assert (1 + there.lower) * (1 + here.upper) == pytest.approx(1.0, rel=1e-9)


def engagement(verdict: Verdict) -> list[Finding]:
    return [found for found in verdict.findings if found.metric in ENGAGEMENT]


# --- empty segments ------------------------------------------------------------------------------------------------


def widened(moments: Moments, name: str = "a view type that nobody saw") -> Moments:
    wide: dict[str, Any] = {}
    for field, axis in (
        ("counts_MGSAK", 1),
        ("values_MGSAK", 1),
        ("pairs_GKP", 0),
        ("score_bins_GAKB", 0),
        ("reliability_GACBR", 0),
        ("shadow_reliability_GACBR", 0),
        ("before_MGAK", 1),
    ):
        array = getattr(moments, field)
        if array is not None:
            wide[field] = np.concatenate([array, np.zeros_like(np.take(array, [0], axis=axis))], axis=axis)
    return replace(moments, segments=(*moments.segments, name), **wide)


def told(finding: Finding) -> Finding:
    """But for the weight, which is a function of the number of view types."""
    return replace(finding, weight=0.0)


@SEARCH
@given(drawn=nasty(), effect=st.sampled_from([-0.3, -0.03, 0.0, 0.3]), phase=st.sampled_from(JUDGED))
def test_an_empty_view_type_changes_no_other_finding(drawn: Nasty, effect: float, phase: Phase) -> None:
    moments = moments_of(drawn, effect=effect)
    narrow, wide = judged(moments, phase), judged(widened(moments), phase)
    others = [found for found in wide.findings if found.segment != "a view type that nobody saw"]
    empty = [found for found in wide.findings if found.segment == "a view type that nobody saw"]

    assert [told(found) for found in others] == [told(found) for found in narrow.findings]
    assert all(found.log_e_harm == 0.0 and found.effect is None for found in empty)
    assert not any(found.gates for found in empty)
    assert sum(found.weight for found in wide.findings) <= 1 + 1e-12
    if narrow.rule is wide.rule:
        assert (narrow.outcome, narrow.reason) == (wide.outcome, wide.reason) or narrow.outcome is Outcome.ROLL_BACK
    else:  # the mean's weights are spread thinner, so a crossing may come later, and nothing else may differ
        assert narrow.outcome is Outcome.ROLL_BACK
        assert narrow.log_e_rollback >= narrow.log_e_threshold > wide.log_e_rollback


# --- currency ------------------------------------------------------------------------------------------------------


@SEARCH
@given(drawn=nasty(), scale=st.sampled_from([2, 10, 150]), phase=st.sampled_from(JUDGED))
def test_a_currencys_scale_cancels(drawn: Nasty, scale: int, phase: Phase) -> None:
    assume(drawn.size <= 1_000)
    moments = moments_of(drawn, effect=-0.03)
    sums = sums_of(moments)
    sums[..., Measure.REVENUE] *= scale
    before = None if moments.before_MGAK is None else moments.before_MGAK.copy()
    if before is not None:
        before[Measure.REVENUE] *= scale
    yen = replace(with_sums(moments, sums), before_MGAK=before)

    here, there = judged(moments, phase), judged(yen, phase, revenue_cap=1_000.0 * scale)

    assert (here.outcome, here.rule, here.culprits, here.blame) == (
        there.outcome,
        there.rule,
        there.culprits,
        there.blame,
    )
    for one, other in zip(here.findings, there.findings, strict=True):
        assert (one.answer, one.gates, one.missing) == (other.answer, other.gates, other.missing)
        for name in ("effect", "lower", "upper", "standard_error", "log_e_harm", "log_e_safe", "seconds_to_resolve"):
            first, second = getattr(one, name), getattr(other, name)
            assert (first is None) == (second is None)
            if first is not None:
                assert second == pytest.approx(first, rel=1e-6, abs=1e-9), name


# --- NaN -----------------------------------------------------------------------------------------------------------

BROKEN_NUMBERS = (math.nan, math.inf, -math.inf)
GOOD = Nasty(
    seed=1,
    size=2_000,
    view_types=("grid", "closeup"),
    shares=(2_500,),
    buckets=NUM_BUCKETS,
    sparsity=0.0,
    ctr=0.05,
    shape="plain",
)
LENIENT: dict[str, Any] = {"judge": {"loss_budget": 0.05}, "operational": []}


@given(
    outcome=st.sampled_from(list(ReadingOutcome)),
    value=st.sampled_from(BROKEN_NUMBERS),
    name=st.sampled_from(["depth", "spend"]),
    phase=st.sampled_from(JUDGED),
)
@settings(max_examples=60, deadline=None)
def test_a_reading_that_is_no_number_never_advances(
    outcome: ReadingOutcome, value: float, name: str, phase: Phase
) -> None:
    moments = moments_of(GOOD)
    broken = Reading(name=name, outcome=outcome, value=value, sampled_at_ms=None, query="q")
    readings = [reading for reading in some_readings() if reading.name != name]

    verdict = judge(a_full_plan(**LENIENT), a_stage_of(phase, moments), moments, sound_health(), [*readings, broken])

    assert verdict.outcome is not Outcome.ADVANCE
    assert "nan" not in verdict.to_json().lower().replace('"nan"', "")


@given(
    counts=st.fixed_dictionaries(
        {
            name: st.sampled_from([0, 1, 10_000, *BROKEN_NUMBERS, -1, 0.5, 2**63])
            for name in ("requests", "errors", "timeouts", "scores", "bad_scores", "distinct_scores")
        }
    ),
    arm=st.sampled_from(["stable", "candidate"]),
    phase=st.sampled_from(JUDGED),
)
@settings(max_examples=100, deadline=None)
def test_health_that_cannot_be_never_advances(counts: dict[str, Any], arm: str, phase: Phase) -> None:
    assume(any(not isinstance(count, int) or count < 0 or count >= 2**63 for count in counts.values()))
    moments = moments_of(GOOD)
    broken: dict[str, Any] = {arm: ServingCounts(**counts)}

    verdict = judge(
        a_full_plan(**LENIENT),
        a_stage_of(phase, moments),
        moments,
        replace(sound_health(), **broken),
        some_readings(),
    )

    assert verdict.outcome is not Outcome.ADVANCE


@given(
    field=st.sampled_from(
        [*SUMMED, "before_MGAK", "users_A", "cross_exposed_users", "as_of_ms", "newest_event_ms", "candidate_newest_ms"]
    ),
    number=st.sampled_from(BROKEN_NUMBERS),
    phase=st.sampled_from(JUDGED),
)
@settings(max_examples=60, deadline=None)
def test_moments_with_a_number_that_is_none_are_refused(field: str, number: float, phase: Phase) -> None:
    moments = moments_of(GOOD)
    whole = getattr(moments, field)
    spoiled: Any = number
    if field == "users_A":
        spoiled = (whole[0], number)
    elif isinstance(whole, np.ndarray) or field == "before_MGAK":
        shape = whole.shape if whole is not None else (len(Measure), 3, 2, NUM_BUCKETS)
        spoiled = np.full(shape, number)
    broken: dict[str, Any] = {field: spoiled}

    with pytest.raises(InvalidMoments) as refused:
        judged(replace(moments, **broken), phase)

    assert refused.value.field == field


@given(
    field=st.sampled_from([*SUMMED, "before_MGAK"]),
    dtype=st.sampled_from([np.float32, np.uint64, np.int16, np.bool_, np.complex128, object]),
)
@settings(max_examples=60, deadline=None)
def test_moments_of_a_wrong_kind_are_refused(field: str, dtype: type) -> None:
    moments = moments_of(replace(GOOD, seed=2, size=1))
    before = sums_of(moments).sum(axis=1).transpose(3, 0, 1, 2).copy()
    moments = replace(moments, before_MGAK=before)
    broken: dict[str, Any] = {field: getattr(moments, field).astype(dtype)}

    with pytest.raises(InvalidMoments) as refused:
        judged(replace(moments, **broken))

    assert refused.value.field == field


def numbers_of(plan: RolloutPlan) -> list[tuple[str, ...]]:
    """Paths to every float of a plan."""
    found: list[tuple[str, ...]] = []

    def walk(value: object, path: tuple[str, ...]) -> None:
        if isinstance(value, float):
            found.append(path)
        elif isinstance(value, tuple):
            for index, entry in enumerate(value):
                walk(entry, (*path, str(index)))
        elif hasattr(value, "__dataclass_fields__"):
            for name in value.__dataclass_fields__:
                walk(getattr(value, name), (*path, name))

    walk(plan, ())
    return found


def with_number(value: Any, path: tuple[str, ...], number: float) -> Any:
    if not path:
        return number
    if isinstance(value, tuple):
        index = int(path[0])
        return (*value[:index], with_number(value[index], path[1:], number), *value[index + 1 :])
    return replace(value, **{path[0]: with_number(getattr(value, path[0]), path[1:], number)})


@pytest.mark.parametrize("number", BROKEN_NUMBERS)
def test_a_plan_with_a_number_that_is_none_is_refused_wherever_it_stands(number: float) -> None:
    moments, plan = moments_of(replace(GOOD, size=1)), a_full_plan()

    for path in numbers_of(plan):
        with pytest.raises(InvalidPlan):
            judge(with_number(plan, path, number), a_stage(), moments, sound_health(), some_readings())


# --- replay, and everything at once --------------------------------------------------------------------------------


@SEARCH
@given(
    drawn=nasty(),
    effect=st.sampled_from([-0.9, -0.03, 0.0, 0.3]),
    phase=st.sampled_from(list(Phase)),
    outcome=st.sampled_from(list(ReadingOutcome)),
)
def test_a_stored_verdict_replays_to_the_last_bit(
    drawn: Nasty, effect: float, phase: Phase, outcome: ReadingOutcome
) -> None:
    moments = moments_of(drawn, effect=effect)
    silent = Reading(name="spend", outcome=outcome, value=None, sampled_at_ms=None, query="q — “ü”", detail="🙂")
    inputs = a_full_plan(), a_stage_of(phase, moments), moments, sound_health(), (some_readings()[0], silent)

    packed = pack(*inputs)

    assert replay(packed).to_json() == judge(*inputs).to_json()


def extreme(drawn: Nasty, *, top: int, labelled: Arm, label: int, score: int, revenue: int) -> Moments:
    """Cells near what their widths hold."""
    moments = moments_of(replace(drawn, size=1, shares=drawn.shares[:2], buckets=40))
    sums = np.zeros_like(sums_of(moments))
    each = top // max(1, len(drawn.view_types))
    sums[..., : Measure.REVENUE] = each
    sums[0, ..., : Measure.REVENUE] = top
    for measure in LABELS:
        sums[..., measure] = 0
        sums[:, :, labelled, :, measure] = min(label, each)
    sums[..., Measure.SCORE] = sums[..., Measure.MATURED_CLICK] * score
    sums[..., Measure.REVENUE] = revenue
    return replace(with_sums(moments, sums), before_MGAK=None)


@SEARCH
@given(
    drawn=nasty(),
    phase=st.sampled_from(JUDGED),
    top=st.sampled_from([2**31 - 1, 2**30, 2**24]),
    labelled=st.sampled_from(list(Arm)),
    label=st.sampled_from([0, 1, 2**31 - 1]),
    score=st.sampled_from([0, 1, FIXED_POINT]),
    revenue=st.sampled_from([0, 1, 2**40, 2**50]),
)
def test_counts_as_large_as_their_widths_hold_are_judged_in_finite_numbers(
    drawn: Nasty, phase: Phase, top: int, labelled: Arm, label: int, score: int, revenue: int
) -> None:
    moments = extreme(drawn, top=top, labelled=labelled, label=label, score=score, revenue=revenue)

    is_whole(judged(moments, phase))


@SEARCH
@given(drawn=nasty(), effect=st.sampled_from([-0.9, -0.03, 0.0, 0.3]), phase=st.sampled_from(list(Phase)))
def test_whatever_comes_the_judge_answers_in_finite_numbers(drawn: Nasty, effect: float, phase: Phase) -> None:
    moments = moments_of(drawn, effect=effect)
    verdict = judged(moments, phase)

    is_whole(verdict)
    if verdict.outcome is Outcome.ADVANCE and phase is Phase.RAMPING:
        assert moments.users_A[Arm.CANDIDATE] >= 1_000
        assert any(found.gates and found.log_e_safe >= math.log(20) for found in verdict.findings)


def is_whole(verdict: Verdict) -> None:
    assert Verdict.from_json(verdict.to_json()).to_json() == verdict.to_json()
    assert 0.0 <= sum(found.weight for found in verdict.findings) <= 1 + 1e-12
    for found in verdict.findings:
        assert found.lower is None or found.upper is None or found.lower <= found.upper
        assert found.seconds_to_resolve is None or found.seconds_to_resolve >= 0


def test_the_search_reaches_every_outcome() -> None:
    """So that none of the above holds only for want of evidence."""
    seen = {
        judged(moments_of(replace(GOOD, seed=seed), effect=effect), phase, **LENIENT).outcome
        for seed in range(6)
        for effect in (-0.3, 0.0)
        for phase in JUDGED
    }

    assert seen == set(Outcome)
