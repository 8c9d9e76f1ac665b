"""Whether the features that training had still arrive: each one's null rate in the latest calls against training's.

Shape: F features.
"""

import math

import numpy as np

from model_runtime.networks.nulls import RateArray

LOST_SHARE = 0.5  # a feature is lost when less than this part of the values that training had still comes
FALSE_ALARM = 1e-3  # of all features of a version together
WINDOW = 1_000  # samples after which all that was seen counts half: a feature lost late must still show


class FeatureWatch:
    """Not thread-safe: its owner locks."""

    def __init__(self, expected_F: RateArray) -> None:
        self.expected_F = expected_F
        self._present_F = np.zeros_like(expected_F)
        self._samples = 0.0

    def see(self, null_F: RateArray) -> None:
        """Count one call, by the share of each feature's values that was null in it."""
        self._present_F += 1.0 - null_F
        self._samples += 1.0
        if self._samples >= WINDOW:
            self._present_F *= 0.5
            self._samples *= 0.5

    def num_lost(self) -> int:
        """Features of which surely less than `LOST_SHARE` of what training had comes.

        "Surely" is an e-value of the feature's number against 1/`FALSE_ALARM`, a uniform mixture of binomials over
        the calls. A call's share stands for its values, since they go missing together; the e-value holds for
        shares as for whole successes.

        Source:
            Robbins 1970, section 2 (uniform mixture of binomials); Hoeffding 1963, theorem 1 (shares from 0 to 1).
        """
        bar = math.log(max(1, len(self.expected_F)) / FALSE_ALARM)
        limit_F = LOST_SHARE * (1.0 - self.expected_F)
        return sum(
            present < limit * self._samples and _log_e(present, self._samples, limit) >= bar
            for present, limit in zip(self._present_F.tolist(), limit_F.tolist(), strict=True)
        )


def _log_e(successes: float, trials: float, rate: float) -> float:
    """Against "each success has the probability `rate`", 0 < rate < 1."""
    failures = trials - successes
    mixed = math.lgamma(successes + 1) + math.lgamma(failures + 1) - math.lgamma(trials + 2)
    return mixed - successes * math.log(rate) - failures * math.log1p(-rate)
