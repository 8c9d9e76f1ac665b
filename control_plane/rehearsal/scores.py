"""Sums of scores as the event log makes them: fixed point, bins of the logit, losses, each impression rounded alone.

Letters: V view types, W waves or arms, K buckets, J kinds of impressions with one score each; others as in
`domain.moments`.
"""

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_SCORE_BINS,
    SCORE_BIN_LOGIT_MIN,
    SCORE_BIN_LOGIT_WIDTH,
    PairMeasure,
    ReliabilityMeasure,
)
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.rehearsal.ledger import Pairs

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SCORE_CLIP = 1e-7  # as the event log clips scores before it takes their logarithm
COARSE_K = np.arange(NUM_BUCKETS) // (NUM_BUCKETS // NUM_COARSE_BUCKETS)


def fixed(value: FloatArray) -> IntArray:
    return np.rint(value * FIXED_POINT).astype(np.int64)


def score_bin(score: FloatArray) -> IntArray:
    logit = np.log(score) - np.log1p(-score)
    found = np.floor((logit - SCORE_BIN_LOGIT_MIN) / SCORE_BIN_LOGIT_WIDTH)
    return np.clip(found, 0, NUM_SCORE_BINS - 1).astype(np.int64)


def reliability(shown_VWKJ: IntArray, clicks_VWKJ: IntArray, score_VWJ: FloatArray, arm_W: IntArray) -> IntArray:
    """(V, A, C, B, R) of impressions that all have the score of their view type, wave and kind."""
    views = shown_VWKJ.shape[0]
    shape = (views, len(Arm), NUM_COARSE_BUCKETS, NUM_SCORE_BINS)
    segment_VW = np.arange(views)[:, None] * len(Arm) + arm_W
    row_VWK = segment_VW[..., None] * NUM_COARSE_BUCKETS + COARSE_K
    index = row_VWK[..., None] * NUM_SCORE_BINS + score_bin(score_VWJ)[:, :, None]
    sums_VACBR = np.zeros((*shape, len(ReliabilityMeasure)), dtype=np.int64)
    sums_VACBR[..., ReliabilityMeasure.IMPRESSIONS] = _summed(index, shown_VWKJ, shape)
    sums_VACBR[..., ReliabilityMeasure.SCORE] = _summed(index, shown_VWKJ * fixed(score_VWJ)[:, :, None], shape)
    sums_VACBR[..., ReliabilityMeasure.CLICK] = _summed(index, clicks_VWKJ, shape)
    return sums_VACBR


def pairs_of(stable_VJ: FloatArray, candidate_VJ: FloatArray, shown_VKJ: IntArray, clicks_VKJ: IntArray) -> Pairs:
    """What the shadow's sums are where both versions' scores are known for each view type and kind."""
    scores_V2J = np.stack([stable_VJ, candidate_VJ], axis=1)
    both = (shown_VKJ.shape[0], len(Arm), *shown_VKJ.shape[1:])
    shown_VAKJ = np.broadcast_to(shown_VKJ[:, None], both)
    clicks_VAKJ = np.broadcast_to(clicks_VKJ[:, None], both)
    return Pairs(
        pairs_VKP=_pair_sums(stable_VJ, candidate_VJ, shown_VKJ, clicks_VKJ),
        score_bins_VAKB=_score_bins(score_bin(scores_V2J), shown_VAKJ),
        score_pairs_CBB=_score_pairs(score_bin(stable_VJ), score_bin(candidate_VJ), shown_VKJ),
        reliability_VACBR=reliability(shown_VAKJ, clicks_VAKJ, scores_V2J, np.arange(len(Arm))),
    )


def _pair_sums(stable_VJ: FloatArray, candidate_VJ: FloatArray, shown_VKJ: IntArray, clicks_VKJ: IntArray) -> IntArray:
    sums_VKP = np.zeros((*shown_VKJ.shape[:2], len(PairMeasure)), dtype=np.int64)
    others_VKJ = shown_VKJ - clicks_VKJ
    sums_VKP[..., PairMeasure.PAIRS] = sums_VKP[..., PairMeasure.MATURED] = shown_VKJ.sum(axis=-1)
    sums_VKP[..., PairMeasure.CLICK] = clicks_VKJ.sum(axis=-1)
    sums_VKP[..., PairMeasure.LOG_RATIO] = _weighed(shown_VKJ, np.log(candidate_VJ) - np.log(stable_VJ))
    for score_VJ, score, loss, brier in (
        (stable_VJ, PairMeasure.SCORE_STABLE, PairMeasure.LOG_LOSS_STABLE, PairMeasure.BRIER_STABLE),
        (candidate_VJ, PairMeasure.SCORE_CANDIDATE, PairMeasure.LOG_LOSS_CANDIDATE, PairMeasure.BRIER_CANDIDATE),
    ):
        sums_VKP[..., score] = _weighed(shown_VKJ, score_VJ)
        sums_VKP[..., loss] = _weighed(clicks_VKJ, -np.log(score_VJ)) + _weighed(others_VKJ, -np.log1p(-score_VJ))
        sums_VKP[..., brier] = _weighed(clicks_VKJ, (1 - score_VJ) ** 2) + _weighed(others_VKJ, score_VJ**2)
    return sums_VKP


def _weighed(count_VKJ: IntArray, value_VJ: FloatArray) -> IntArray:
    return np.asarray((count_VKJ * fixed(value_VJ)[:, None]).sum(axis=-1))


def _score_bins(bin_VAJ: IntArray, shown_VAKJ: IntArray) -> IntArray:
    shape = (*shown_VAKJ.shape[:3], NUM_SCORE_BINS)
    row_VAK = np.arange(np.prod(shape[:3])).reshape(shape[:3])
    return _summed(row_VAK[..., None] * NUM_SCORE_BINS + bin_VAJ[:, :, None], shown_VAKJ, shape)


def _score_pairs(stable_VJ: IntArray, candidate_VJ: IntArray, shown_VKJ: IntArray) -> IntArray:
    pair_VJ = stable_VJ * NUM_SCORE_BINS + candidate_VJ
    index_VKJ = COARSE_K[:, None] * NUM_SCORE_BINS**2 + pair_VJ[:, None]
    return _summed(index_VKJ, shown_VKJ, (NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS))


def _summed(index: IntArray, values: IntArray, shape: tuple[int, ...]) -> IntArray:
    """Exact: what one cohort adds to a cell stays below 2^53."""
    weights = np.broadcast_to(values, index.shape).ravel().astype(np.float64)
    sums = np.bincount(index.ravel(), weights=weights, minlength=int(np.prod(shape)))
    return np.rint(sums).astype(np.int64).reshape(shape)
