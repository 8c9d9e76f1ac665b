"""Multi-gate mixture of experts: the experts are shared, each surface × task weighs them by a gate of its own.

Shapes: N rows, X width of the crossed features, K experts, H expert width, T tasks.

Source: MMoE, Ma et al., KDD 2018, doi:10.1145/3219819.3220007.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertsConfig:
    num_experts: int = 4
    width: int = 32


class Experts(nn.Module):
    """All experts as one matrix product."""

    def __init__(self, crossed_width: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.inward = nn.Linear(crossed_width, config.num_experts * config.width)

    def forward(self, crossed_NX: Tensor) -> Tensor:
        """Shape (N, K, H)."""
        expert_NKH: Tensor = self.inward(crossed_NX).relu_().view(-1, self.config.num_experts, self.config.width)
        return expert_NKH


class Gates(nn.Module):
    """One surface's gates, one per task; a task's weights over the experts sum to one."""

    def __init__(self, crossed_width: int, num_tasks: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.shape = (-1, num_tasks, config.num_experts)
        self.inward = nn.Linear(crossed_width, num_tasks * config.num_experts)

    def forward(self, crossed_NX: Tensor) -> Tensor:
        """Shape (N, T, K)."""
        gate_NTK: Tensor = self.inward(crossed_NX).view(self.shape).softmax(-1)
        return gate_NTK
