"""How well a model predicts clicks: normalised entropy, AUC and calibration, by surface and view type.

Shapes: N or M rows, T tasks, K experts, B bins, G golden rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import CLICK, TASKS, EngagementNetwork, to_tensors
from model_runtime.networks.features import FeatureSpec, FloatArray, IntArray, RowBatch
from model_runtime.training.data import Examples, Parts
from model_runtime.training.windows import Windows

LOG_LOSS_CLIP = 1e-7  # a probability of exactly 0 or 1 must not make a loss infinite
SCORING_ROWS = 16_384  # rows scored at once: bounds memory
SHARE_ROWS = 4_096  # of a window, whose gates are looked at
MAX_SCORED_ROWS = 1_000_000  # kept of a surface's part: some 20 bytes each, and clicks enough to calibrate by
GOLDEN_ROWS = 64  # rows of a golden check: a few per view type, and it stays a file of kilobytes
BINS = 15  # of a reliability plot and its error, each with as many rows
Z_95 = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What one group of rows says; None where it takes at least one click and one non-click to say it.

    Of generated rows the truth is known: `true_calibration` is expected clicks over what was to be expected, and
    `best_normalised_entropy` what the true probabilities themselves come to on these clicks.
    """

    rows: int
    clicks: int
    normalised_entropy: float | None  # log loss over the entropy of the group's own click rate: below 1 is better
    auc: float | None
    calibration: float | None  # expected clicks over clicks: 1 is right
    calibration_interval: tuple[float, float] | None  # 95 %, as if each row were another user's
    calibration_error: float | None  # debiased, relative to the click rate
    bins: tuple[tuple[float, float, int], ...]  # mean probability, click rate and rows of each
    true_calibration: float | None = None
    best_normalised_entropy: float | None = None

    def to_json(self) -> dict[str, object]:
        told = {name: getattr(self, name) for name in self.__slots__}
        return {name: each for name, each in told.items() if each is not None or name not in TRUTH}


TRUTH = ("true_calibration", "best_normalised_entropy")


def quality(
    click_N: NDArray[np.bool_],
    probability_N: NDArray[np.floating],
    true_click_N: NDArray[np.float64] | None = None,
) -> Quality:
    rows, clicks = len(click_N), int(click_N.sum())
    is_mixed = 0 < clicks < rows
    calibration = float(probability_N.sum(dtype=np.float64) / clicks) if clicks else None
    bins = reliability(click_N, probability_N)
    told = {}
    if true_click_N is not None and is_mixed:
        told["true_calibration"] = float(probability_N.sum(dtype=np.float64) / true_click_N.sum())
        told["best_normalised_entropy"] = _normalised_entropy(click_N, true_click_N)
    return Quality(
        rows=rows,
        clicks=clicks,
        normalised_entropy=_normalised_entropy(click_N, probability_N) if is_mixed else None,
        auc=_auc(click_N, probability_N) if is_mixed else None,
        calibration=calibration,
        calibration_interval=None if calibration is None else _calibration_interval(calibration, rows, clicks),
        calibration_error=calibration_error(bins) if is_mixed else None,
        bins=bins,
        **told,
    )


def reliability(
    click_N: NDArray[np.bool_], probability_N: NDArray[np.floating]
) -> tuple[tuple[float, float, int], ...]:
    """Mean probability, click rate and rows of bins of as many rows each, in the order of the probabilities."""
    order_N = np.argsort(probability_N, kind="stable")
    bins = [part for part in np.array_split(order_N, BINS) if len(part)]
    return tuple((float(probability_N[part].mean()), float(click_N[part].mean()), len(part)) for part in bins)


def calibration_error(bins: Sequence[tuple[float, float, int]]) -> float:
    """Root of `mean_square_error`, or 0 where that is below it, relative to the whole click rate."""
    rows, clicks = sum(size for _, _, size in bins), sum(rate * size for _, rate, size in bins)
    return math.sqrt(max(0.0, mean_square_error(bins))) * rows / clicks


def mean_square_error(bins: Sequence[tuple[float, float, int]]) -> float:
    """Mean square over rows of (mean probability − click rate) of their bin, debiased.

    From each bin's square the binomial variance of its click rate is taken, so that a perfect model comes to 0 on
    average however few its rows. What varies within a bin is not seen, and bins of one row are left out.

    Source:
        Kumar, Liang & Ma, NeurIPS 2019, definition 5.1 (debiased calibration error), on bins of equal mass.
    """
    told = [each for each in bins if each[2] > 1]
    squares = [size * ((mean - rate) ** 2 - rate * (1 - rate) / (size - 1)) for mean, rate, size in told]
    return sum(squares) / max(1, sum(size for _, _, size in told))


def _calibration_interval(calibration: float, rows: int, clicks: int) -> tuple[float, float]:
    """On the logarithm, whose variance is that of a binomial count of clicks over their square."""
    half = Z_95 * math.sqrt((1 - clicks / rows) / clicks)
    return calibration * math.exp(-half), calibration * math.exp(half)


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


class Scored(NamedTuple):
    """What the network says of one surface's rows, before calibration, and what became of them."""

    logit_M: FloatArray
    view_type_M: IntArray
    is_click_M: NDArray[np.bool_]
    true_click_M: NDArray[np.float64] | None

    @classmethod
    def joined(cls, parts: Sequence["Scored"]) -> "Scored":
        told = [part.true_click_M for part in parts if part.true_click_M is not None]
        return cls(
            np.concatenate([part.logit_M for part in parts]),
            np.concatenate([part.view_type_M for part in parts]),
            np.concatenate([part.is_click_M for part in parts]),
            np.concatenate(told) if len(told) == len(parts) else None,
        )

    def probabilities(self, calibrator: Calibrator) -> NDArray[np.float64]:
        with torch.inference_mode():
            calibrated_M = calibrator(torch.from_numpy(self.logit_M), torch.from_numpy(self.view_type_M))
            probability_M: NDArray[np.float64] = calibrated_M.double().sigmoid().numpy()
        return probability_M


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """All that is known of one surface's held-out rows; `golden` are a few of those of the evaluation."""

    calibration: Scored
    evaluation: Scored
    expert_share_TK: FloatArray  # mean weight of each expert on evaluation rows
    golden: RowBatch

    @property
    def all(self) -> Scored:
        return Scored.joined([self.calibration, self.evaluation])


def scored(network: EngagementNetwork, examples: Examples, surface: Surface, row_M: IntArray) -> Scored:
    logit_M, view_type_M = click_logits(network, examples, surface, row_M)
    true_N = examples.true_click_N
    return Scored(logit_M, view_type_M, examples.label_NT[row_M, CLICK] > 0, None if true_N is None else true_N[row_M])


def score_held_out(network: EngagementNetwork, data: Windows) -> dict[Surface, HeldOut]:
    """In one pass over the held-out rows; of a part with more than MAX_SCORED_ROWS, only every so many is looked at."""
    keeping = {surface: _Keeping(*sizes[1:]) for surface, sizes in data.sizes.items()}
    for window in data.windows(has_training=False, has_held_out=True):
        for surface, parts in window.parts.items():
            keeping[surface].add(network, window.examples, surface, parts)
    return {surface: kept.held_out() for surface, kept in keeping.items()}


class _Keeping:
    """One surface's held-out rows, as they come in."""

    def __init__(self, num_calibration: int, num_evaluation: int) -> None:
        self.every = [-(-size // MAX_SCORED_ROWS) for size in (num_calibration, num_evaluation)]
        self.seen = [0, 0]
        self.scored: tuple[list[Scored], list[Scored]] = ([], [])
        self.golden_G = np.linspace(0, num_evaluation - 1, num=min(GOLDEN_ROWS, num_evaluation)).astype(np.int64)
        self.golden: list[RowBatch] = []
        self.share_TK: NDArray[np.float64] | float = 0.0

    def add(self, network: EngagementNetwork, examples: Examples, surface: Surface, parts: Parts) -> None:
        first = self.seen[1]
        is_here_G = (self.golden_G >= first) & (self.golden_G < first + len(parts.evaluation))
        if is_here_G.any():
            golden_M = parts.evaluation[self.golden_G[is_here_G] - first]
            self.golden.append(examples.batch(golden_M).of_surface(examples.spec, surface))
        for place, row_M in enumerate((parts.calibration, parts.evaluation)):
            kept_M = row_M[-self.seen[place] % self.every[place] :: self.every[place]]
            self.seen[place] += len(row_M)
            if len(kept_M):
                self.scored[place].append(scored(network, examples, surface, kept_M))
        if len(parts.evaluation):
            row_M = parts.evaluation[:SHARE_ROWS]
            self.share_TK = self.share_TK + expert_shares(network, examples, surface, row_M) * len(parts.evaluation)

    def held_out(self) -> HeldOut:
        calibration, evaluation = (Scored.joined(each) for each in self.scored)
        share_TK = np.asarray(self.share_TK / self.seen[1], np.float32)
        return HeldOut(
            calibration=calibration,
            evaluation=evaluation,
            expert_share_TK=share_TK,
            golden=_batches_joined(self.golden),
        )


def _batches_joined(batches: Sequence[RowBatch]) -> RowBatch:
    """Rows of several batches, each with users of its own."""
    first_user = np.cumsum([0, *(batch.num_users for batch in batches)])
    index_N = np.concatenate([batch.user_index_N + first for batch, first in zip(batches, first_user, strict=False)])
    names = [entry.name for entry in fields(RowBatch) if entry.name != "user_index_N"]
    arrays = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names}
    return RowBatch(**arrays, user_index_N=index_N)


def held_out_table(
    spec: FeatureSpec, calibrators: Mapping[Surface, Calibrator], held_out: Mapping[Surface, HeldOut]
) -> dict[str, dict[str, dict[str, object]]]:
    """Quality by surface and view type ("all" for the surface), on rows that nothing was fitted on."""
    table: dict[str, dict[str, dict[str, object]]] = {}
    for surface, calibrator in calibrators.items():
        evaluation = held_out[surface].evaluation
        probability_M = evaluation.probabilities(calibrator)
        groups = {"all": np.ones(len(probability_M), np.bool_)}
        groups |= {str(name): evaluation.view_type_M == index for index, name in enumerate(spec.view_types[surface])}
        table[surface] = {
            name: quality(
                evaluation.is_click_M[is_member_M],
                probability_M[is_member_M],
                None if evaluation.true_click_M is None else evaluation.true_click_M[is_member_M],
            ).to_json()
            for name, is_member_M in groups.items()
        }
    return table


def expert_table(held_out: Mapping[Surface, HeldOut]) -> dict[str, dict[str, list[float]]]:
    """By surface and task, the mean weight of each expert; one near 0 for every task of every surface is dead."""
    return {surface: dict(zip(TASKS, each.expert_share_TK.tolist(), strict=True)) for surface, each in held_out.items()}


def expert_shares(
    network: EngagementNetwork, examples: Examples, surface: Surface, row_M: IntArray
) -> NDArray[np.float64]:
    """The mean weight of each expert on some rows, shape (T, K)."""
    with torch.inference_mode():
        shared = network.trunk(to_tensors(examples.spec, surface, examples.batch(row_M), device="cpu"))
        share_TK: NDArray[np.float64] = network.head_of(surface).gates(shared.crossed_NX).mean(0).double().numpy()
    return share_TK


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
