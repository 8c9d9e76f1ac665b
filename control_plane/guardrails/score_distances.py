"""How far two binned distributions of scores lie apart, with users clustered in buckets.

Letters of the shapes: A arms (2), K buckets, J = K + 1 leave-one-out replicates, B score bins that hold anything,
D distances, H halves of the users.
"""

import math
from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import SCORE_BIN_LOGIT_WIDTH
from control_plane.domain.split import Arm
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray, divide, jackknife_se, leave_one_out

NUM_GROUPS = 10  # by stable's quantiles, as is usual for PSI
SHARE_DIGITS = 12  # where cumulated shares are equal, rounding must not choose the sign of their difference
TINIEST = 1e-300  # x·log(x) is 0 at 0; this keeps the logarithm finite there


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """`value` is centred on 0 where nothing differs; `se` is its standard error, of users drawn as they come."""

    value: float
    se: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDistances:
    """Candidate's scores from stable's.

    Attributes:
        psi: population stability index over tenths of stable's scores.
        js: Jensen–Shannon divergence over all bins, nats.
        wasserstein: Wasserstein-1 on the bins' logit axis, logits.
        ks: Kolmogorov–Smirnov, the largest difference of the cumulative shares.
    """

    psi: Distance
    js: Distance
    wasserstein: Distance
    ks: Distance


def score_distances(score_bins_AKB: IntArray) -> ScoreDistances:
    """Four distances, each freed of the upward bias that it has where nothing differs.

    PSI and Jensen–Shannon are smooth and quadratic at 0: the jackknife removes their bias, of order 1/K, and as its
    own standard error vanishes there, twice the squared bias joins the variance (that of a sum of squared normals
    with this mean is no larger). The other two are sums or maxima of absolute values, whose bias the jackknife
    cannot see: there it is what a half of the users claims beyond what the other half confirms of it.

    At least two buckets must hold scores of both arms.

    Source:
        Shao & Tu, The Jackknife and Bootstrap, 1995, sections 1.3 and 3.1.
    """
    occupied_B = np.flatnonzero(score_bins_AKB.sum(axis=(0, 1)))
    count_ABK = np.moveaxis(score_bins_AKB[:, :, occupied_B], 1, 2).astype(np.int64)
    has_data_K = np.asarray((count_ABK.sum(axis=1) > 0).all(axis=0))
    gap_B = np.diff(occupied_B, append=occupied_B[-1:]) * SCORE_BIN_LOGIT_WIDTH
    count_ABJ = leave_one_out(count_ABK)
    share_ABJ = count_ABJ / count_ABJ.sum(axis=1, keepdims=True)
    ahead_BJ = np.abs(np.cumsum(share_ABJ[Arm.STABLE] - share_ABJ[Arm.CANDIDATE], axis=0))
    distance_DJ = np.stack([_psi(count_ABJ), _js(share_ABJ), gap_B @ ahead_BJ, ahead_BJ.max(axis=0)])
    se_D = jackknife_se(distance_DJ, np.broadcast_to(has_data_K, (len(distance_DJ), has_data_K.size)))
    bias_D = np.concatenate([_jackknife_bias(distance_DJ[:2], has_data_K), _unconfirmed(count_ABK, gap_B)])
    variance_D = np.square(se_D)
    variance_D[:2] += 2.0 * np.square(bias_D[:2])
    value_D = np.maximum(0.0, distance_DJ[:, 0] - bias_D)
    found = [Distance(value=v, se=s) for v, s in zip(value_D.tolist(), np.sqrt(variance_D).tolist(), strict=True)]
    return ScoreDistances(psi=found[0], js=found[1], wasserstein=found[2], ks=found[3])


def starts_of_tenths(stable_B: IntArray) -> tuple[IntArray, IntArray]:
    """Where neighbouring bins begin that share a tenth of stable's scores, and which tenth, from 0.

    A tenth that one bin overfills stays one group with those that follow it. The outer groups are open: scores
    beyond all of stable's belong to them.
    """
    below_B = np.cumsum(stable_B) - stable_B
    total = int(stable_B.sum())
    tenth_B = below_B * NUM_GROUPS // max(1, total)
    highest = tenth_B[below_B < total].max(initial=0)
    starts = np.flatnonzero(np.diff(np.minimum(tenth_B, highest), prepend=-1))
    return starts, tenth_B[starts]


def _psi(count_ABJ: FloatArray) -> FloatArray:
    starts, _ = starts_of_tenths(count_ABJ[Arm.STABLE, :, 0].astype(np.int64))
    count_AGJ = np.add.reduceat(count_ABJ, starts, axis=1) + 0.5
    share_AGJ = count_AGJ / count_AGJ.sum(axis=1, keepdims=True)
    log_AGJ = np.log(share_AGJ)
    return np.asarray(((share_AGJ[1] - share_AGJ[0]) * (log_AGJ[1] - log_AGJ[0])).sum(axis=0))


def _js(share_ABJ: FloatArray) -> FloatArray:
    """Entropy of the mixture less the mean of both entropies."""
    mixture_BJ = (share_ABJ[0] + share_ABJ[1]) / 2
    return np.asarray((_x_log_x(share_ABJ).sum(axis=0) / 2 - _x_log_x(mixture_BJ)).sum(axis=0))


def _x_log_x(x: FloatArray) -> FloatArray:
    return np.asarray(x * np.log(np.maximum(x, TINIEST)))


def _jackknife_bias(distance_DJ: FloatArray, has_data_K: BoolArray) -> FloatArray:
    without_DK = distance_DJ[:, 1:][:, has_data_K]
    return np.asarray((without_DK.shape[1] - 1) * (without_DK.mean(axis=1) - distance_DJ[:, 0]))


def _unconfirmed(count_ABK: IntArray, gap_B: FloatArray) -> FloatArray:
    """The bias of Wasserstein and Kolmogorov–Smirnov, from halving the users by each bit of their bucket's number.

    One half says where and in which direction the distributions differ, the other how much they do there. What the
    latter falls short of its own distance is bias at half the users, √2 times that at all of them.
    """
    buckets = count_ABK.shape[2]
    bits = np.arange(max(1, (buckets - 1).bit_length()))
    is_in_KP = (np.arange(buckets)[:, None] >> bits) & 1
    is_in_KH = np.concatenate([is_in_KP, 1 - is_in_KP], axis=1).astype(np.float64)
    count_ABH = count_ABK.astype(np.float64) @ is_in_KH
    share_ABH = divide(count_ABH, count_ABH.sum(axis=1, keepdims=True))
    ahead_BH = np.cumsum(share_ABH[Arm.STABLE] - share_ABH[Arm.CANDIDATE], axis=0)
    ahead_BH = ahead_BH.round(SHARE_DIGITS)
    other_BH = np.roll(ahead_BH, len(bits), axis=1)
    size_BH = np.abs(ahead_BH)
    confirmed_BH = np.sign(other_BH) * ahead_BH
    place_H = np.abs(other_BH).argmax(axis=0)
    wasserstein_H = gap_B @ (size_BH - confirmed_BH)
    ks_H = size_BH.max(axis=0) - confirmed_BH[place_H, np.arange(place_H.size)]
    return np.asarray(np.array([wasserstein_H.mean(), ks_H.mean()]) / math.sqrt(2.0))
