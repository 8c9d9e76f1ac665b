import json
from pathlib import Path

import numpy as np
import pytest

from control_plane.domain.split import Arm, Split
from model_runtime.router import arms, shadowed
from tests.builders import CANDIDATE, HOME_FEED, STABLE

KEYS = np.random.default_rng(0).integers(0, 1 << 64, 20_000, dtype=np.uint64)
VECTORS = Path(__file__).parents[1] / "domain" / "split_vectors.json"


def test_arms_of_an_array_are_those_of_each_key() -> None:
    split = a_split(candidate_bp=2_500)

    arm_U = arms(split, KEYS[:500])

    assert arm_U.tolist() == [split.arm_of(int(key)) for key in KEYS[:500]]  # type: ignore[arg-type]  # keys are ints


def test_nobody_is_the_candidates_without_weight() -> None:
    assert not arms(a_split(candidate_bp=0), KEYS).any()


def test_everybody_is_the_candidates_at_full_weight() -> None:
    assert (arms(a_split(candidate_bp=10_000), KEYS) == Arm.CANDIDATE).all()


def test_growth_moves_no_user_out_of_the_candidate() -> None:
    before, after = arms(a_split(candidate_bp=500), KEYS), arms(a_split(candidate_bp=2_500), KEYS)

    assert (after[before == Arm.CANDIDATE] == Arm.CANDIDATE).all()


def test_the_shadow_samples_the_share_it_was_given() -> None:
    is_sampled_U = shadowed(a_split(), KEYS, 2_000)

    assert is_sampled_U.mean() == pytest.approx(0.2, abs=0.01)


def test_the_shadows_sample_does_not_depend_on_the_arm() -> None:
    split = a_split(candidate_bp=5_000)

    is_sampled_U, arm_U = shadowed(split, KEYS, 2_000), arms(split, KEYS)

    assert is_sampled_U[arm_U == Arm.CANDIDATE].mean() == pytest.approx(0.2, abs=0.015)


def test_without_a_share_nobody_is_sampled() -> None:
    assert not shadowed(a_split(), KEYS, 0).any()


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    few_U, many_U = (shadowed(a_split(), KEYS, sample_bp) for sample_bp in (500, 2_000))

    assert many_U[few_U].all()


def test_arms_agree_with_the_vectors_that_other_languages_test_by() -> None:
    for vector in json.loads(VECTORS.read_text())["slots"]:
        key_U = np.array([int(vector["user_key"])], np.uint64)
        at_its_slot, above_it = (
            arms(a_split(salt=vector["salt"], candidate_bp=share_bp), key_U)[0]
            for share_bp in (vector["slot"], vector["slot"] + 1)
        )
        assert (at_its_slot, above_it) == (Arm.STABLE, Arm.CANDIDATE)


def a_split(**overrides: object) -> Split:
    fields = {"surface": HOME_FEED, "generation": 1, "salt": "s", "stable": STABLE, "candidate": CANDIDATE}
    return Split(**{**fields, **overrides})  # type: ignore[arg-type]  # tests name real fields
