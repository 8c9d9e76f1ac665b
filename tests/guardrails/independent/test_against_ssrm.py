"""Optimizely's sequential multinomial test, by the authors of Lindon & Malek 2022."""

import math

import numpy as np
import pytest

from control_plane.guardrails.sample_ratio import log_e_sample_ratio
from tests.guardrails.builders import a_draw
from tests.guardrails.independent.stored import Case, cases


def log_es(case: Case) -> list[float]:
    """After each of the batches that ssrm-test was fed."""
    users = np.cumsum(case.inputs["users"], axis=0).tolist()
    return [log_e_sample_ratio([a_draw(case.inputs["share_bp"], *so_far)]) for so_far in users]


def test_the_splits_e_value_is_ssrms_bayes_factor_at_every_look() -> None:
    for case in cases("ssrm-test", "sequential_posteriors"):
        assert log_es(case) == pytest.approx(case.value, abs=1e-9), case.inputs["share_bp"]


def test_the_greatest_e_value_so_far_is_one_over_ssrms_sequential_p_value() -> None:
    for case in cases("ssrm-test", "sequential_p_values"):
        greatest = np.maximum.accumulate([0.0, *log_es(case)])[1:]

        assert [math.exp(-log_e) for log_e in greatest] == pytest.approx(case.value, rel=1e-9)


def test_draws_multiply_as_experiments_do_that_know_nothing_of_each_other() -> None:
    first, second = (case for case in cases("ssrm-test", "sequential_posteriors")[1::2])
    draws = [
        a_draw(case.inputs["share_bp"], *np.sum(case.inputs["users"], axis=0).tolist(), generation=generation)
        for generation, case in ((1, first), (2, second))
    ]

    assert log_e_sample_ratio(draws) == pytest.approx(first.value[-1] + second.value[-1], abs=1e-9)
