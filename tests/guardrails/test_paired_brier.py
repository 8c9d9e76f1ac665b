import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import Moments, PairMeasure
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.look import Look
from control_plane.guardrails.paired_brier import brier_findings
from tests.guardrails.builders import a_judged_plan, a_stage, empty_moments, shadow_moments


def found_in(moments: Moments) -> tuple[Finding, ...]:
    return brier_findings(Look(plan=a_judged_plan(), stage=a_stage(Phase.SHADOW), moments=moments))


def test_it_is_the_difference_of_both_brier_scores_relative_to_stable_s() -> None:
    moments = shadow_moments(np.random.default_rng(1), noise=0.5)
    sums_GP = moments.pairs_GKP.sum(axis=1)
    stable_G, candidate_G = sums_GP[:, PairMeasure.BRIER_STABLE], sums_GP[:, PairMeasure.BRIER_CANDIDATE]

    found = found_in(moments)

    assert [finding.effect for finding in found] == pytest.approx(list(candidate_G / stable_G - 1))
    assert [finding.segment for finding in found] == list(moments.segments)


def test_its_error_is_that_of_leaving_out_each_bucket_in_turn() -> None:
    moments = shadow_moments(np.random.default_rng(2), noise=0.5)
    without = []
    for bucket in range(moments.pairs_GKP.shape[1]):
        kept = moments.pairs_GKP.copy()
        kept[:, bucket] = 0
        without.append(found_in(replace(moments, pairs_GKP=kept))[0].effect or 0.0)
    buckets = len(without)

    expected = math.sqrt((buckets - 1) / buckets * np.square(np.array(without) - np.mean(without)).sum())

    assert found_in(moments)[0].standard_error == pytest.approx(expected, rel=1e-6)


def test_a_model_that_lost_information_is_surely_worse_and_an_equal_one_is_not() -> None:
    blurred = found_in(shadow_moments(np.random.default_rng(3), pairs=200_000, ctr=0.2, noise=0.6))[0]
    equal = found_in(shadow_moments(np.random.default_rng(3), pairs=200_000, ctr=0.2))[0]

    assert (blurred.lower or 0.0) > 0.0
    assert equal.effect == pytest.approx(0.0, abs=1e-9)
    assert (equal.lower or 0.0) <= 0.0 <= (equal.upper or -1.0)


def test_it_is_told_and_never_decided_on() -> None:
    found = found_in(shadow_moments(np.random.default_rng(4), noise=1.0))

    assert {(finding.answer, finding.gates, finding.weight) for finding in found} == {(Answer.MONITORED, False, 0.0)}


def test_without_pairs_or_users_there_is_no_estimate() -> None:
    few = shadow_moments(np.random.default_rng(5))
    few.pairs_GKP[:, 20:] = 0

    assert {finding.effect for finding in (*found_in(empty_moments()), *found_in(few))} == {None}


@pytest.mark.slow
def test_its_interval_covers_no_difference_at_every_look() -> None:
    """Both models have lost as much of the truth, each its own part; pairs of the same users pile up over 20 looks."""
    runs, missed = 200, 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        truth_U = np.clip(rng.gamma(4.0, 0.0125, size=2_000), 1e-3, 0.5)
        score_UA = truth_U[:, None] * np.exp(rng.normal(size=(2_000, 2)) * 0.4 - 0.08)
        bucket_U, moments = rng.integers(256, size=2_000), empty_moments(view_types=())
        is_outside = False
        for _ in range(20):
            shown_U = rng.poisson(2.0, size=2_000)
            click_U = rng.binomial(shown_U, truth_U)
            for measure, value_U in (
                (PairMeasure.MATURED, shown_U),
                (PairMeasure.CLICK, click_U),
                (PairMeasure.BRIER_STABLE, brier_of(score_UA[:, 0], shown_U, click_U)),
                (PairMeasure.BRIER_CANDIDATE, brier_of(score_UA[:, 1], shown_U, click_U)),
            ):
                np.add.at(moments.pairs_GKP[0, :, measure], bucket_U, np.rint(value_U).astype(np.int64))
            finding = found_in(moments)[0]
            is_outside |= not (finding.lower or 0.0) <= 0.0 <= (finding.upper or 0.0)
        missed += is_outside
    print(f"{missed} of {runs} runs × 20 looks had an interval without the truth")

    assert missed <= 0.05 * runs


def brier_of(
    score_U: NDArray[np.float64],
    shown_U: NDArray[np.int64],
    click_U: NDArray[np.int64],
) -> NDArray[np.float64]:
    return 1e6 * ((1 - score_U) ** 2 * click_U + score_U**2 * (shown_U - click_U))
