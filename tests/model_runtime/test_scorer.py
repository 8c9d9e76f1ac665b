import logging
from collections.abc import Iterator

import numpy as np
import pytest

from control_plane.domain.split import Arm, Split
from model_runtime.batching import one_user_each
from model_runtime.kept import num_bytes
from model_runtime.residency import Residency
from model_runtime.router import arms
from model_runtime.scorer import NOTHING_SHOWN, Scorer, best_rows
from model_runtime.tally import Tally
from model_runtime.unavailable import Unavailable
from tests.model_runtime.artifacts import POISONED_ITEM, Artifact, Artifacts, a_split, some_keys, sound_batch
from tests.model_runtime.conftest import eventually

NAN = np.float32(np.nan)


@pytest.fixture(scope="module")
def residency(artifacts: Artifacts) -> Iterator[Residency]:
    residency = Residency()
    residency.start()
    everything = (artifacts.stable, artifacts.candidate, artifacts.poisoned, artifacts.foreign, artifacts.sibling)
    residency.want({each.version_id: str(each.folder) for each in everything})
    eventually(lambda: len(residency.loaded()) == len(everything))
    yield residency
    residency.stop()


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def scorer(residency: Residency, tally: Tally) -> Scorer:
    return Scorer(residency, tally, max_users=16, max_rows=1_000)


def half(stable: Artifact, candidate: Artifact) -> Split:
    return a_split(stable, candidate, candidate_bp=5_000)


def test_each_user_is_scored_by_the_version_of_their_arm(
    scorer: Scorer, residency: Residency, artifacts: Artifacts
) -> None:
    split, batch = half(artifacts.stable, artifacts.candidate), sound_batch()
    arm_U = arms(split, some_keys(40))

    routed = scorer.score_routed(split, arm_U, batch)

    by_stable, by_candidate = (residency.get(each.version_id) for each in (artifacts.stable, artifacts.candidate))
    assert by_stable is not None
    assert by_candidate is not None
    is_candidate_N = arm_U[batch.user_index_N] == Arm.CANDIDATE
    assert 0 < is_candidate_N.sum() < batch.num_rows
    expected_N = np.where(is_candidate_N, by_candidate.score(batch)["click"], by_stable.score(batch)["click"])
    np.testing.assert_allclose(routed.scores.click_N, expected_N, atol=1e-6, rtol=0)
    assert routed.arm_U.tolist() == arm_U.tolist()


def test_arms_that_share_a_trunk_meet_in_one_forward(
    scorer: Scorer, residency: Residency, tally: Tally, artifacts: Artifacts
) -> None:
    split, batch = half(artifacts.stable, artifacts.sibling), sound_batch(num_users=16, num_rows=60)
    arm_U = arms(split, some_keys(16))

    routed = scorer.score_routed(split, arm_U, batch)

    by_stable, by_sibling = (residency.get(each.version_id) for each in (artifacts.stable, artifacts.sibling))
    assert by_stable is not None
    assert by_sibling is not None
    is_candidate_N = arm_U[batch.user_index_N] == Arm.CANDIDATE
    expected_N = np.where(is_candidate_N, by_sibling.score(batch)["click"], by_stable.score(batch)["click"])
    np.testing.assert_allclose(routed.scores.click_N, expected_N, atol=1e-6, rtol=0)
    assert np.abs(by_sibling.score(batch)["click"] - by_stable.score(batch)["click"]).max() > 1e-3
    counts = scorer.batches.counts()
    assert (counts.forwards, counts.parts, counts.users_encoded) == (1, 2, 16)
    assert tally.counts()[artifacts.sibling.version_id].rows == is_candidate_N.sum()


@pytest.mark.parametrize(("max_users", "max_rows"), [(99, 999), (5, 999), (99, 7)])
def test_kept_activations_give_a_version_of_the_same_trunk_the_scores_of_the_rows_alone(
    residency: Residency, artifacts: Artifacts, max_users: int, max_rows: int
) -> None:
    scorer, batch = Scorer(residency, Tally(), max_users=max_users, max_rows=max_rows), sound_batch()
    row_S = np.array([17, 3, 99, 4, 50])

    routed = scorer.score_routed(a_split(artifacts.stable), np.zeros(40, np.int64), batch, keeps_activations=True)

    assert routed.kept is not None
    activations = routed.kept.take(row_S)
    sibling = residency.get(artifacts.sibling.version_id)
    assert activations is not None
    assert sibling is not None
    found = scorer.score_kept(sibling, activations)
    alone = scorer.score_in_shadow(sibling, one_user_each(batch, row_S))
    np.testing.assert_allclose(found.click_N, alone.click_N, atol=1e-6, rtol=0)
    np.testing.assert_allclose(found.hide_N, alone.hide_N, atol=1e-6, rtol=0)


def test_kept_activations_hold_no_more_than_the_rows_taken(residency: Residency, artifacts: Artifacts) -> None:
    scorer = Scorer(residency, Tally(), max_users=99, max_rows=999)
    few, many = (
        scorer.score_routed(
            a_split(artifacts.stable), np.zeros(40, np.int64), sound_batch(num_rows=rows), keeps_activations=True
        ).kept
        for rows in (60, 900)
    )
    assert few is not None
    assert many is not None

    taken = [kept.take(np.arange(5)) for kept in (few, many)]

    sizes = [each.shared.crossed_NX.untyped_storage().nbytes() for each in taken if each is not None]
    assert len(set(sizes)) == 1
    assert num_bytes(taken[0]) == num_bytes(taken[1])  # type: ignore[arg-type]  # both are there


def test_a_user_for_whom_the_candidate_gives_nan_is_answered_by_stable(
    scorer: Scorer, residency: Residency, tally: Tally, artifacts: Artifacts
) -> None:
    split, batch = a_split(artifacts.stable, artifacts.poisoned, candidate_bp=10_000), sound_batch()
    batch.candidate_categorical_NC[5, 0] = POISONED_ITEM
    unlucky = batch.user_index_N[5]

    routed = scorer.score_routed(split, np.ones(40, np.int64), batch)

    stable = residency.get(artifacts.stable.version_id)
    assert stable is not None
    rows_N = batch.user_index_N == unlucky
    np.testing.assert_allclose(routed.scores.click_N[rows_N], stable.score(batch)["click"][rows_N], atol=1e-6, rtol=0)
    assert np.flatnonzero(routed.arm_U == Arm.STABLE).tolist() == [unlucky]
    counts = tally.counts()[artifacts.poisoned.version_id]
    assert (counts.requests, counts.errors, counts.bad_scores) == (40, 1, 1)


def test_users_of_a_candidate_that_raises_are_answered_by_stable(
    scorer: Scorer, tally: Tally, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    split, batch = half(artifacts.stable, artifacts.foreign), sound_batch()
    arm_U = arms(split, some_keys(40))

    with caplog.at_level(logging.CRITICAL, "model_runtime.scorer"):
        routed = scorer.score_routed(split, arm_U, batch)

    assert not routed.arm_U.any()
    assert not routed.scores.bad_rows().any()
    counts = tally.counts()[artifacts.foreign.version_id]
    assert counts.requests == counts.errors == arm_U.sum()


def test_users_of_a_candidate_that_is_not_loaded_are_answered_by_stable(
    scorer: Scorer, tally: Tally, artifacts: Artifacts
) -> None:
    absent = Artifact(folder=artifacts.stable.folder, version_id=artifacts.twin.version_id)

    routed = scorer.score_routed(half(artifacts.stable, absent), np.ones(40, np.int64), sound_batch())

    assert not routed.arm_U.any()
    assert tally.counts()[absent.version_id].errors == 40


def test_a_stable_that_is_not_loaded_leaves_nothing_to_answer_with(scorer: Scorer, artifacts: Artifacts) -> None:
    with pytest.raises(Unavailable, match="is not loaded"):
        scorer.score_routed(a_split(artifacts.twin), np.zeros(40, np.int64), sound_batch())


def test_a_stable_that_raises_leaves_nothing_to_answer_with(
    scorer: Scorer, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "model_runtime.scorer"), pytest.raises(Unavailable, match="no sound score"):
        scorer.score_routed(a_split(artifacts.foreign), np.zeros(40, np.int64), sound_batch())


def test_one_bad_row_of_stable_spoils_no_other(scorer: Scorer, tally: Tally, artifacts: Artifacts) -> None:
    batch = sound_batch()
    batch.candidate_categorical_NC[5, 0] = POISONED_ITEM

    routed = scorer.score_routed(a_split(artifacts.poisoned), np.zeros(40, np.int64), batch)

    assert np.flatnonzero(routed.scores.bad_rows()).tolist() == [5]
    assert tally.counts()[artifacts.poisoned.version_id].errors == 1


def test_scores_do_not_depend_on_how_the_users_were_cut(residency: Residency, artifacts: Artifacts) -> None:
    version = residency.get(artifacts.stable.version_id)
    assert version is not None
    coarse, fine = (Scorer(residency, Tally(), max_users=users, max_rows=rows) for users, rows in ((99, 999), (3, 7)))

    np.testing.assert_allclose(
        fine.score(version, sound_batch()).click_N, coarse.score(version, sound_batch()).click_N, atol=1e-6, rtol=0
    )


def test_the_shown_row_is_each_users_best_and_the_first_of_equals() -> None:
    click_N = np.array([0.1, 0.3, 0.3, 0.9, 0.2], np.float32)

    assert best_rows(click_N, np.array([0, 0, 0, 1, 1]), 2).tolist() == [1, 3]


def test_rows_need_not_be_sorted_by_user() -> None:
    click_N = np.array([0.1, 0.9, 0.5, 0.2], np.float32)

    assert best_rows(click_N, np.array([1, 0, 1, 0]), 2).tolist() == [1, 2]


@pytest.mark.parametrize("bad", [NAN, np.float32(np.inf), np.float32(1.5), np.float32(-0.1)])
def test_a_bad_score_is_never_shown(bad: np.float32) -> None:
    assert best_rows(np.array([bad, 0.1], np.float32), np.array([0, 0]), 1).tolist() == [1]


def test_a_user_without_a_sound_row_is_shown_nothing() -> None:
    shown_U = best_rows(np.array([0.5, NAN], np.float32), np.array([0, 2]), 3)

    assert shown_U.tolist() == [0, NOTHING_SHOWN, NOTHING_SHOWN]
