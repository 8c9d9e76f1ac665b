"""How well a model predicts clicks: normalised entropy, AUC and calibration, by surface and view type.

Shapes: N or M rows, T tasks, K experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import CLICK, TASKS, EngagementNetwork, to_tensors
from model_runtime.networks.features import FloatArray, IntArray
from model_runtime.training.data import Examples, Parts

LOG_LOSS_CLIP = 1e-7  # a probability of exactly 0 or 1 must not make a loss infinite
SCORING_ROWS = 16_384  # rows scored at once: bounds memory


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


def click_logits(
    network: EngagementNetwork, examples: Examples, surface: Surface, row_M: IntArray
) -> tuple[FloatArray, IntArray]:
    """Uncalibrated click logits of one surface's rows, and their view types."""
    with torch.inference_mode():
        logits = [
            network(surface, examples.batch(row_M[start : start + SCORING_ROWS]))[:, CLICK]
            for start in range(0, len(row_M), SCORING_ROWS)
        ]
    return torch.cat(logits).numpy(), examples.rows.view_type_N[row_M]


def held_out_table(
    network: EngagementNetwork,
    calibrators: Mapping[Surface, Calibrator],
    examples: Examples,
    parts: Mapping[Surface, Parts],
) -> dict[str, dict[str, dict[str, object]]]:
    """Quality by surface and view type ("all" for the surface), on rows that nothing was fitted on."""
    table: dict[str, dict[str, dict[str, object]]] = {}
    for surface, calibrator in calibrators.items():
        row_M = parts[surface].evaluation
        logit_M, view_type_M = click_logits(network, examples, surface, row_M)
        with torch.inference_mode():
            calibrated_M = calibrator(torch.from_numpy(logit_M), torch.from_numpy(view_type_M))
            probability_M = calibrated_M.double().sigmoid().numpy()
        click_M = examples.label_NT[row_M, CLICK] > 0
        groups: dict[str, Quality] = {"all": quality(click_M, probability_M)}
        for index, name in enumerate(examples.spec.view_types[surface]):
            is_member_M = view_type_M == index
            groups[name] = quality(click_M[is_member_M], probability_M[is_member_M])
        table[surface] = {name: group.to_json() for name, group in groups.items()}
    return table


def expert_shares(
    network: EngagementNetwork, examples: Examples, surface: Surface, parts: Parts
) -> dict[str, list[float]]:
    """By task, the mean weight of each expert on held-out rows; one near 0 for every task of every surface is dead."""
    batch = examples.batch(parts.evaluation[:SCORING_ROWS])
    with torch.inference_mode():
        shared = network.trunk(to_tensors(examples.spec, surface, batch, device="cpu"))
        share_TK = network.head_of(surface).gates(shared.crossed_NX).mean(0)
    return dict(zip(TASKS, share_TK.tolist(), strict=True))


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
