"""Log ratio of two arms' rates from bucket sums: Mantel–Haenszel over strata, jackknife over user buckets.

Letters of the shapes: H hypotheses, Q numerators of each, S strata, A arms (2), K buckets, J = K + 1 replicates, of
which the first leaves nothing out and the others one bucket each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.split import Arm

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
IntegerArray = NDArray[np.signedinteger]
BoolArray = NDArray[np.bool_]

EVERY = slice(None)
MIN_STANDARD_ERROR = 1e-9  # buckets that agree to the last bit are a test's, not a crowd's


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogRatios:
    """H estimates of log(candidate's rate / stable's rate); NaN where there is nothing to compare.

    Attributes:
        theta_H: the log ratio over the strata that both arms live in.
        se_H: its standard error, of users drawn as they come.
        buckets_H: user buckets with data in both arms' strata, the smaller arm's count.
        expected_H: candidate's numerator if it had stable's rates: Σ_s Y_C·N_T/N_C.
        overlap_HS: comparable impressions N_T·N_C/(N_T+N_C), to which information is proportional.
        theta_HJ: the log ratio, whole and without each bucket.
        has_data_HK: buckets with data in either arm.
    """

    theta_H: FloatArray
    se_H: FloatArray
    buckets_H: IntArray
    expected_H: FloatArray
    overlap_HS: FloatArray
    theta_HJ: FloatArray
    has_data_HK: BoolArray


def log_ratios(numerator_HSAK: IntegerArray, denominator_HSAK: IntegerArray, unit_H: FloatArray) -> LogRatios:
    """Mantel–Haenszel log ratios of both arms in the same strata, with delete-one-bucket standard errors.

    Strata without both arms drop out, so that a ramp beside a weekly rhythm leaves no bias. Swapping the arms
    flips `theta_H` to the last bit. `unit_H` is the size of one conversion (1 for counts); half of it is added
    to both numerators where one of them, or one of their replicates, is empty.

    Source:
        Mantel & Haenszel 1959; Shao & Tu, The Jackknife and Bootstrap, 1995, section 1.2.
    """
    return Comparison(denominator_HSAK).log_ratios(numerator_HSAK, unit_H)


class Comparison:
    """The impressions of both arms, prepared once for all the numerators that are counted over them.

    With `is_taken_HS` each of H hypotheses has only some of the strata of one and the same denominator (1, S, A, K).
    """

    def __init__(self, denominator_HSAK: IntegerArray, is_taken_HS: BoolArray | None = None) -> None:
        self._is_shared_HS = (denominator_HSAK.sum(axis=3) > 0).all(axis=2)
        if is_taken_HS is not None:
            self._is_shared_HS = self._is_shared_HS & is_taken_HS
        self._lives_S = self._is_shared_HS.any(axis=0)
        self._taken_HS = None if is_taken_HS is None else self._is_shared_HS[:, self._lives_S].astype(np.float64)
        self._denominator_HSAJ = leave_one_out(self._living(denominator_HSAK))
        stable_HSJ, candidate_HSJ = (
            self._denominator_HSAJ[:, :, Arm.STABLE],
            self._denominator_HSAJ[:, :, Arm.CANDIDATE],
        )
        total_HSJ = np.maximum(stable_HSJ + candidate_HSJ, 1.0)  # an empty stratum then weighs nothing
        self._stable_part_HSJ, self._candidate_part_HSJ = stable_HSJ / total_HSJ, candidate_HSJ / total_HSJ
        has_data_HSAK = self._living(denominator_HSAK) > 0
        has_data_HSAK = has_data_HSAK & self._is_shared_HS[:, self._lives_S, None, None]
        has_data_HAK: BoolArray = np.asarray(has_data_HSAK.any(axis=1))
        self.buckets_H = has_data_HAK.sum(axis=2).min(axis=1).astype(np.int64)
        self.has_data_HK = np.asarray(has_data_HAK.any(axis=1))
        self.overlap_HS = np.zeros(self._is_shared_HS.shape)
        overlap_HS = candidate_HSJ[..., 0] * self._stable_part_HSJ[..., 0]
        self.overlap_HS[:, self._lives_S] = overlap_HS if self._taken_HS is None else overlap_HS * self._taken_HS

    def log_ratios(self, numerator_HSAK: IntegerArray, unit_H: FloatArray) -> LogRatios:
        """As the function of the same name."""
        return self.all_log_ratios([numerator_HSAK], unit_H[None])[0]

    def all_log_ratios(self, numerators: Sequence[IntegerArray], unit_QH: FloatArray) -> list[LogRatios]:
        """Of Q numerators (H, S, A, K) that are counted over these impressions, each as if alone."""
        weighted = [self._weighted(self._living(numerator)) for numerator in numerators]
        above_QHJ, below_QHJ, whole_QHSA = (np.stack(sums) for sums in zip(*weighted, strict=True))
        above_QHJ, below_QHJ = self._with_half_a_conversion(above_QHJ, below_QHJ, unit_QH)
        with np.errstate(divide="ignore", invalid="ignore"):
            theta_QHJ = np.log(above_QHJ) - np.log(below_QHJ)
        theta_QHJ = np.where(np.isfinite(theta_QHJ).all(axis=2, keepdims=True), theta_QHJ, np.nan)
        se_N = jackknife_se(theta_QHJ.reshape(-1, theta_QHJ.shape[2]), np.tile(self.has_data_HK, (len(numerators), 1)))
        return [
            LogRatios(
                theta_H=theta_HJ[:, 0],
                se_H=se_H,
                buckets_H=self.buckets_H,
                expected_H=self._expected(whole_HSA),
                overlap_HS=self.overlap_HS,
                theta_HJ=theta_HJ,
                has_data_HK=self.has_data_HK,
            )
            for theta_HJ, se_H, whole_HSA in zip(theta_QHJ, se_N.reshape(len(numerators), -1), whole_QHSA, strict=True)
        ]

    def of_surface(self, numerator_HSAK: IntegerArray) -> tuple[FloatArray, FloatArray]:
        """The first hypothesis' candidate and stable numerators, each by the other arm's part: replicates, (J,)."""
        above_HJ, below_HJ, _ = self._weighted(self._living(numerator_HSAK[:1]), hypotheses=slice(0, 1))
        return above_HJ[0], below_HJ[0]

    def _living(self, sums_HSAK: IntegerArray) -> IntegerArray:
        """Without the strata that no hypothesis shares."""
        return sums_HSAK if self._lives_S.all() else sums_HSAK[:, self._lives_S]

    def _weighted(
        self, numerator_HSAK: IntegerArray, hypotheses: slice = EVERY
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Candidate's and stable's numerators by the other arm's part, (H, J), and both unweighted, (H, S, A)."""
        numerator_HSAJ = leave_one_out(numerator_HSAK)
        stable_HSJ, candidate_HSJ = numerator_HSAJ[:, :, Arm.STABLE], numerator_HSAJ[:, :, Arm.CANDIDATE]
        above_HJ = self._sum(candidate_HSJ, self._stable_part_HSJ[hypotheses])
        below_HJ = self._sum(stable_HSJ, self._candidate_part_HSJ[hypotheses])
        return above_HJ, below_HJ, numerator_HSAJ[..., 0].copy()

    def _sum(self, numerator_HSJ: FloatArray, part_HSJ: FloatArray) -> FloatArray:
        """Over the strata that each hypothesis has; of numbers from 0 on, so that 0 says that all of them are 0."""
        if self._taken_HS is None:
            return np.asarray(np.einsum("hsj,hsj->hj", numerator_HSJ, part_HSJ))
        return np.asarray(self._taken_HS @ (numerator_HSJ[0] * part_HSJ[0]))

    def _expected(self, numerator_HSA: FloatArray) -> FloatArray:
        denominator_HSA = self._denominator_HSAJ[..., 0]
        rate_HS = divide(numerator_HSA[..., Arm.STABLE], denominator_HSA[..., Arm.STABLE])
        expected_HS = rate_HS * denominator_HSA[..., Arm.CANDIDATE]
        return np.asarray(expected_HS.sum(axis=1) if self._taken_HS is None else self._taken_HS @ expected_HS[0])

    def _with_half_a_conversion(
        self, above_QHJ: FloatArray, below_QHJ: FloatArray, unit_QH: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        is_empty_QH = (above_QHJ <= 0).any(axis=2) | (below_QHJ <= 0).any(axis=2)
        if not is_empty_QH.any():
            return above_QHJ, below_QHJ
        half_QH1 = np.where(is_empty_QH, 0.5 * unit_QH, 0.0)[:, :, None]
        is_shared_HS = self._is_shared_HS[:, self._lives_S]
        shared_HAJ = np.where(is_shared_HS[:, :, None, None], self._denominator_HSAJ, 0.0).sum(axis=1)
        part_HAJ = shared_HAJ / np.maximum(shared_HAJ.sum(axis=1), 1.0)[:, None]
        return above_QHJ + half_QH1 * part_HAJ[:, Arm.STABLE], below_QHJ + half_QH1 * part_HAJ[:, Arm.CANDIDATE]


def leave_one_out(sums_K: IntegerArray) -> FloatArray:
    """Sums over the last axis, whole and without each of its buckets: (…, K) → (…, K + 1)."""
    whole = sums_K.sum(axis=-1, keepdims=True, dtype=np.int64)
    found = np.empty((*sums_K.shape[:-1], sums_K.shape[-1] + 1))
    found[..., :1] = whole
    np.subtract(found[..., :1], sums_K.astype(np.float64), out=found[..., 1:])
    return found


def jackknife_se(replicate_HJ: FloatArray, has_data_HK: BoolArray) -> FloatArray:
    """Standard error of H statistics from their delete-one replicates, over buckets that hold data."""
    buckets_H = has_data_HK.sum(axis=1)
    without_HK = np.where(has_data_HK, replicate_HJ[:, 1:], 0.0)
    mean_H = divide(without_HK.sum(axis=1), buckets_H.astype(np.float64))
    spread_H = np.where(has_data_HK, np.square(without_HK - mean_H[:, None]), 0.0).sum(axis=1)
    variance_H = spread_H * divide(buckets_H - 1.0, buckets_H.astype(np.float64))
    return np.asarray(np.maximum(np.sqrt(variance_H), MIN_STANDARD_ERROR), dtype=np.float64)


def effective_count(value_K: IntArray) -> FloatArray:
    """How many equal lumps a sum is worth by its spread over the last axis: (Σv)²/Σv², Kish's effective size."""
    value = value_K.astype(np.float64)
    return divide(np.square(value.sum(axis=-1)), np.square(value).sum(axis=-1))


def divide(above: FloatArray, below: FloatArray) -> FloatArray:
    """Zero where there is nothing to divide by: an empty stratum then weighs nothing."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)
