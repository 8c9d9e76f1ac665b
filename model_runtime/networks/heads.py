"""One surface's own part of the network: gates, a tree of towers, a module for what it alone knows, task heads.

Shapes: N candidate rows, X width of what is crossed, K experts, H expert width, T tasks, G tower width, S features
that this surface alone has, I and O a layer's width in and out.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_runtime.networks.embeddings import EmbeddingConfig, FusedEmbedding, squash_dense
from model_runtime.networks.experts import ExpertsConfig, Gates
from model_runtime.networks.features import NO_SURFACE_FEATURES, SurfaceFeatures

TASKS = ("click", "good_click", "hide")
CLICK = TASKS.index("click")  # the task whose logit is calibrated
INITIAL_BOUND = 0.03  # of head weights: small, so that training starts near the base rates of its biases
ADDED = {"is_added": True}  # metadata of a config's entry that configs of before lack: its default is what they were


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """A surface's tower tree: a layer of `tower_width` and those of `root_widths` read every task's mixture with the
    same weights, then each task has layers of its own, of `branch_widths`. `late` embeds what this surface alone has.
    """

    tower_width: int = 16
    root_widths: tuple[int, ...] = field(default=(), metadata=ADDED)
    branch_widths: tuple[int, ...] = field(default=(), metadata=ADDED)
    late: EmbeddingConfig = field(default_factory=lambda: EmbeddingConfig(width=8), metadata=ADDED)


class Shared(NamedTuple):
    """What the trunk knows of each row, for any surface's head to read."""

    crossed_NX: Tensor
    expert_NKH: Tensor

    def rows(self, part: slice) -> "Shared":
        return Shared(self.crossed_NX[part], self.expert_NKH[part])


class OwnFeatures(NamedTuple):
    """What this surface alone knows of each row; columns beyond its own are not read."""

    surface_categorical_NS: Tensor
    surface_dense_NS: Tensor


class SurfaceHead(nn.Module):
    """One surface's gates, towers and task heads; at serving time only the request's own surface runs."""

    def __init__(
        self,
        crossed_width: int,
        experts: ExpertsConfig,
        config: HeadConfig,
        own: SurfaceFeatures = NO_SURFACE_FEATURES,
    ) -> None:
        super().__init__()
        self.config = config
        self.gates = Gates(crossed_width, len(TASKS), experts)
        self.tower = nn.Linear(experts.width, config.tower_width)
        widths = (config.tower_width, *config.root_widths, *config.branch_widths)
        roots, branches = (pairs(widths[: 1 + len(config.root_widths)]), pairs(widths[len(config.root_widths) :]))
        self.weight_TG = nn.Parameter(torch.empty(len(TASKS), widths[-1]))
        nn.init.uniform_(self.weight_TG, -INITIAL_BOUND, INITIAL_BOUND)
        self.bias_T = nn.Parameter(torch.zeros(len(TASKS)))
        self.roots = nn.ModuleList(nn.Linear(inward, outward) for inward, outward in roots)
        self.branches = nn.ModuleList(TaskLayer(inward, outward) for inward, outward in branches)
        self.late = LateModule(own, config.tower_width, config.late) if own.names else None

    def forward(self, shared: Shared, own: OwnFeatures) -> Tensor:
        """Logits, shape (N, T)."""
        mixed_NTH = self.gates(shared.crossed_NX) @ shared.expert_NKH
        tower_NTG = self.tower(mixed_NTH)
        if self.late is not None:
            tower_NTG = tower_NTG + self.late(own)[:, None]
        tower_NTG = tower_NTG.relu_()
        for layer in (*self.roots, *self.branches):
            tower_NTG = layer(tower_NTG).relu_()
        logit_NT: Tensor = (tower_NTG * self.weight_TG).sum(-1) + self.bias_T
        return logit_NT


class TaskLayer(nn.Module):
    """A linear layer for each task, as one product."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.weight_TIO = nn.Parameter(torch.empty(len(TASKS), inward, outward))
        nn.init.uniform_(self.weight_TIO, -(inward**-0.5), inward**-0.5)
        self.bias_TO = nn.Parameter(torch.zeros(len(TASKS), outward))

    def forward(self, tower_NTG: Tensor) -> Tensor:
        return torch.einsum("nti,tio->nto", tower_NTG, self.weight_TIO) + self.bias_TO


class LateModule(nn.Module):
    """Adds what this surface alone knows to its tower's first layer: the trunk, which all share, never sees it.

    It starts at zero, so that a surface that gains features scores as before until it has learnt from them.
    """

    def __init__(self, own: SurfaceFeatures, tower_width: int, config: EmbeddingConfig) -> None:
        super().__init__()
        self.num_categorical, self.num_dense = len(own.candidate_categorical), len(own.candidate_dense)
        self.embedding = FusedEmbedding(tuple(size for _, size in own.candidate_categorical), config)
        self.outward = nn.Linear(self.num_categorical * config.width + self.num_dense, tower_width, bias=False)
        nn.init.zeros_(self.outward.weight)

    def forward(self, own: OwnFeatures) -> Tensor:
        """Shape (N, G)."""
        embedded_NSE = self.embedding(own.surface_categorical_NS[:, : self.num_categorical], first=0)
        dense_NS = squash_dense(own.surface_dense_NS[:, : self.num_dense])
        late_NG: Tensor = self.outward(torch.cat((embedded_NSE.flatten(1), dense_NS), dim=1))
        return late_NG


def pairs(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Widths in and out of the layers between."""
    return list(pairwise(widths))
