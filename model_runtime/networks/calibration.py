"""A Platt layer per view type on the click logit: one layer for all would mix their distributions.

A calibrator is an artifact of its own, with its own digest, so that it rolls out and back alone.
Shapes: N rows, V view types of one surface.
"""

import torch
from torch import Tensor, nn


class Calibrator(nn.Module):
    """`slope[v] * logit + intercept[v]`; slope 1 and intercept 0 leave a logit as it is."""

    def __init__(self, num_view_types: int) -> None:
        super().__init__()
        self.slope_V = nn.Parameter(torch.ones(num_view_types), requires_grad=False)
        self.intercept_V = nn.Parameter(torch.zeros(num_view_types), requires_grad=False)

    def forward(self, logit_N: Tensor, view_type_N: Tensor) -> Tensor:
        return self.slope_V[view_type_N] * logit_N + self.intercept_V[view_type_N]
