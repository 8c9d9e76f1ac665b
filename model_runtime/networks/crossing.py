"""Feature crossing: low-rank DCNv2, and the projection that makes a wide vector small before it is crossed.

Shapes: B rows, X width of what is crossed, R rank, P projected width.

Source: DCN V2, arXiv:2008.13535, section 3.2 (cross layer) and eq. 3 (low rank).
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossingConfig:
    num_layers: int = 2
    rank: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectionConfig:
    rank: int = 8
    width: int = 16


class LowRankCross(nn.Module):
    """One DCNv2 layer, `x0 * (U V x + b) + x`: each one raises the degree of the crosses by one."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, rank, bias=False)
        self.outward = nn.Linear(rank, width)

    def forward(self, first_BX: Tensor, crossed_BX: Tensor) -> Tensor:
        weight_BX: Tensor = self.outward(self.inward(crossed_BX))
        return crossed_BX.addcmul(first_BX, weight_BX)


class Crossing(nn.Module):
    """A stack of cross layers over the same first vector."""

    def __init__(self, width: int, config: CrossingConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LowRankCross(width, config.rank) for _ in range(config.num_layers))

    def forward(self, first_BX: Tensor) -> Tensor:
        crossed_BX = first_BX
        for layer in self.layers:
            crossed_BX = layer(first_BX, crossed_BX)
        return crossed_BX


class CrossProjection(nn.Module):
    """Cross the Transformer's summary with itself, then keep a smaller vector: all later layers pay by its width."""

    def __init__(self, width: int, config: ProjectionConfig) -> None:
        super().__init__()
        self.cross = LowRankCross(width, config.rank)
        self.outward = nn.Linear(width, config.width)

    def forward(self, summary_BX: Tensor) -> Tensor:
        projected_BP: Tensor = self.outward(self.cross(summary_BX, summary_BX))
        return projected_BP
