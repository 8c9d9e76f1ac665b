"""How well a model predicts clicks: normalised entropy, AUC and calibration, by surface and view type.

Shapes: N rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOG_LOSS_CLIP = 1e-7  # a probability of exactly 0 or 1 must not make a loss infinite


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What one group of rows says; None where it takes at least one click and one non-click to say it."""

    rows: int
    clicks: int
    normalised_entropy: float | None  # log loss over the entropy of the group's own click rate: below 1 is better
    auc: float | None
    calibration: float | None  # expected clicks over clicks: 1 is right

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


def quality(click_N: NDArray[np.bool_], probability_N: NDArray[np.floating]) -> Quality:
    rows, clicks = len(click_N), int(click_N.sum())
    is_mixed = 0 < clicks < rows
    return Quality(
        rows=rows,
        clicks=clicks,
        normalised_entropy=_normalised_entropy(click_N, probability_N) if is_mixed else None,
        auc=_auc(click_N, probability_N) if is_mixed else None,
        calibration=float(probability_N.sum(dtype=np.float64) / clicks) if clicks else None,
    )


def _normalised_entropy(click_N: NDArray[np.bool_], probability_N: NDArray[np.floating]) -> float:
    clipped_N = np.clip(probability_N.astype(np.float64), LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
    loss = -np.where(click_N, np.log(clipped_N), np.log1p(-clipped_N)).mean()
    rate = click_N.mean()
    return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def _auc(click_N: NDArray[np.bool_], probability_N: NDArray[np.floating]) -> float:
    """The chance that a clicked row scores above one that was not; ties count half."""
    _, group_N, size_G = np.unique(probability_N, return_inverse=True, return_counts=True)
    mean_rank_G = np.cumsum(size_G) - (size_G - 1) / 2
    clicks = int(click_N.sum())
    rank_sum = float(mean_rank_G[group_N[click_N]].sum())
    return (rank_sum - clicks * (clicks + 1) / 2) / (clicks * (len(click_N) - clicks))
