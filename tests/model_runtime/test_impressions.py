from dataclasses import replace

import numpy as np
import pytest

from control_plane.domain.model_version import ViewType
from control_plane.domain.split import Split
from model_runtime.impressions import Impressions
from model_runtime.split_table import stable_only
from tests.builders import CANDIDATE, HOME_FEED, STABLE

SPLIT = Split(surface=HOME_FEED, generation=7, salt="s", stable=STABLE, candidate=CANDIDATE, candidate_bp=5_000)


def some_impressions() -> Impressions:
    return Impressions(
        surface=HOME_FEED,
        generation=7,
        served_at_ms=1_000,
        view_types=(ViewType("grid"),),
        impression_id_S=np.arange(2, dtype=np.uint64),
        user_key_S=np.arange(2, dtype=np.uint64),
        view_type_S=np.zeros(2, np.int64),
    )


@pytest.mark.parametrize(
    ("split", "arm_S", "arms", "versions"),
    [
        (SPLIT, [0, 1], ["stable", "candidate"], [STABLE, CANDIDATE]),
        (stable_only(SPLIT), [0, 0], ["home", "home"], [STABLE, STABLE]),
        (replace(SPLIT, candidate=None, candidate_bp=0), [0, 0], ["stable", "stable"], [STABLE, STABLE]),
    ],
)
def test_an_exposure_says_which_arm_served_it_and_whether_the_candidate_was_at_home(
    split: Split, arm_S: list[int], arms: list[str], versions: list[str]
) -> None:
    exposures = some_impressions().exposures(split, np.array(arm_S), np.full(2, 0.5, np.float32))

    assert exposures["arm"].to_pylist() == arms
    assert exposures["version_id"].to_pylist() == versions
    assert exposures["generation"].to_pylist() == [7, 7]
