"""Padded forwards of fixed shapes, computed as they are on a CPU: the same scores as the usual way.

On CUDA the same forwards are recorded as graphs; `test_on_cuda` looks at those.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidField
from model_runtime.buckets import Shape
from model_runtime.checkpoints import LoadedVersion, load_version
from model_runtime.fixed_forwards import FixedForwards, as_is, checked_replay
from model_runtime.networks.attention import AttentionConfig, CandidateAttention, group_by_user
from model_runtime.networks.features import SurfaceFeatures
from model_runtime.networks.fixed_shapes import FixedAttention
from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.model_runtime.rich_versions import a_rich_version
from tests.networks.builders import HOME_FEED, SEARCH, a_batch, a_rich_batch, a_rich_spec

EQUAL = 1e-6  # of a probability


@pytest.fixture(scope="module", params=[HOME_FEED, SEARCH])
def rich(request: pytest.FixtureRequest) -> LoadedVersion:
    """Multi-hot features, actions, attention, and features of the surface's own."""
    return a_rich_version(request.param)


@pytest.mark.parametrize(
    ("users", "rows"), [(1, 1), (1, 16), (1, 500), (2, 3), (5, 40), (8, 64), (31, 100), (32, 1_024)]
)
def test_padding_and_fixed_shapes_change_no_score(rich: LoadedVersion, users: int, rows: int) -> None:
    batch = a_rich_batch(rich.manifest.version.surface, num_users=users, num_rows=rows)
    forwards = FixedForwards(rich, as_is)

    found, expected = forwards.score(batch), rich.score(batch)

    assert found is not None
    for task, score_N in expected.items():
        assert found[task].shape == score_N.shape
        np.testing.assert_allclose(found[task], score_N, atol=EQUAL, rtol=0)


def test_buffers_keep_nothing_of_the_batch_before(rich: LoadedVersion) -> None:
    surface = rich.manifest.version.surface
    forwards = FixedForwards(rich, as_is)
    small = a_rich_batch(surface, num_users=5, num_rows=33, seed=3)
    alone = forwards.score(small)

    forwards.score(a_rich_batch(surface, num_users=8, num_rows=64, seed=4))
    after = forwards.score(small)

    assert alone is not None
    assert after is not None
    np.testing.assert_array_equal(after["click"], alone["click"])


def test_users_without_any_history_score_as_before(rich: LoadedVersion) -> None:
    batch = a_rich_batch(rich.manifest.version.surface, num_users=3, num_rows=20)
    batch.history_UL[:] = 0
    batch.history_action_UL[:] = 0

    found = FixedForwards(rich, as_is).score(batch)

    assert found is not None
    np.testing.assert_allclose(found["click"], rich.score(batch)["click"], atol=EQUAL, rtol=0)


def test_a_surface_whose_own_features_are_all_dense_scores_as_before() -> None:
    own = {SEARCH: SurfaceFeatures(candidate_dense=("match", "rank"))}
    version = a_rich_version(SEARCH, spec=replace(a_rich_spec(), surface_features=own))
    rich = a_rich_batch(SEARCH, num_users=3, num_rows=20)
    batch = replace(rich, surface_categorical_NS=np.zeros((20, 0), np.int64))

    found = FixedForwards(version, as_is).score(batch)

    assert found is not None
    np.testing.assert_allclose(found["click"], version.score(batch)["click"], atol=EQUAL, rtol=0)


def test_what_no_shape_holds_goes_the_usual_way(artifacts: Artifacts) -> None:
    version = load_version(artifacts.stable.folder)
    forwards = FixedForwards(version, as_is, wanted=[Shape(4, 64)])

    assert forwards.score(sound_batch(num_users=4, num_rows=64)) is not None
    assert forwards.score(sound_batch(num_users=5, num_rows=64)) is None
    assert forwards.score(sound_batch(num_users=4, num_rows=128)) is None
    whole = replace(version, replay=forwards.score).score(sound_batch(num_users=40, num_rows=120))
    expected = version.score(sound_batch(num_users=40, num_rows=120))
    np.testing.assert_array_equal(whole["click"], expected["click"])


def test_a_batch_that_breaks_the_contract_is_refused_as_ever(artifacts: Artifacts) -> None:
    version = load_version(artifacts.stable.folder)
    bad = a_batch(num_users=4, num_rows=12)
    bad.user_index_N[3] = 4

    with pytest.raises(InvalidField, match=r"user_index_N\[3\]"):
        FixedForwards(version, as_is).score(bad)


def test_forwards_that_change_scores_are_not_used(artifacts: Artifacts) -> None:
    version = load_version(artifacts.stable.folder)
    golden = sound_batch(num_users=4, num_rows=12)

    assert checked_replay(version, golden, FixedForwards(version, as_is)).replay is not None
    wrong = FixedForwards(version, lambda compute: lambda: compute() + 1e-4)
    assert checked_replay(version, golden, wrong).replay is None
    broken = FixedForwards(version, lambda compute: lambda: compute() * torch.nan)
    assert checked_replay(version, golden, broken).replay is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_groups_of_a_fixed_number_hold_every_row_beside_its_user(users: list[int]) -> None:
    user_index_N = torch.tensor(users)
    attention = FixedAttention(CandidateAttention(4, 4, AttentionConfig()))

    groups = attention.group(user_index_N, 7)

    assert len(groups.user_G) == 14
    assert len(set(groups.slot_N.tolist())) == len(users)  # no two rows in one place
    assert torch.equal(groups.user_G[groups.slot_N // groups.rows], user_index_N)
    assert groups.rows <= group_by_user(user_index_N, 7).rows  # the mean over all users, not over those with rows
