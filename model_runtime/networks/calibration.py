"""A calibration layer per view type on the click logit: one layer for all would mix their distributions.

First a monotone piecewise-linear curve through a fixed number of knots, where there is one, then Platt's line.
A calibrator is an artifact of its own, with its own digest, so that it rolls out and back alone.
Shapes: N rows, V view types of one surface, K knots.
"""

import torch
from torch import Tensor, nn

MAX_KNOTS = 1_024


class Calibrator(nn.Module):
    """`slope[v] * curve[v](logit) + intercept[v]`; slope 1 and intercept 0 leave a logit as it is.

    A view type's curve runs through (`knot_VK`, `value_VK`), both rising, and goes on beyond its ends with slope 1.
    """

    def __init__(self, num_view_types: int, num_knots: int = 0) -> None:
        super().__init__()
        self.num_knots = num_knots
        self.slope_V = nn.Parameter(torch.ones(num_view_types), requires_grad=False)
        self.intercept_V = nn.Parameter(torch.zeros(num_view_types), requires_grad=False)
        if num_knots:
            knot_VK = torch.linspace(-1, 1, num_knots).repeat(num_view_types, 1)
            self.knot_VK = nn.Parameter(knot_VK, requires_grad=False)
            self.value_VK = nn.Parameter(knot_VK.clone(), requires_grad=False)

    def forward(self, logit_N: Tensor, view_type_N: Tensor) -> Tensor:
        if self.num_knots:
            logit_N = self._curve(logit_N, view_type_N)
        return self.slope_V[view_type_N] * logit_N + self.intercept_V[view_type_N]

    def _curve(self, logit_N: Tensor, view_type_N: Tensor) -> Tensor:
        knot_NK, value_NK = self.knot_VK[view_type_N], self.value_VK[view_type_N]
        right_N1 = torch.searchsorted(knot_NK, logit_N[:, None].contiguous()).clamp(1, self.num_knots - 1)
        ends = [each.gather(1, place) for each in (knot_NK, value_NK) for place in (right_N1 - 1, right_N1)]
        left_N, right_N, low_N, high_N = (each[:, 0] for each in ends)
        share_N = ((logit_N - left_N) / (right_N - left_N)).clamp(0, 1)
        beyond_N = (logit_N - right_N).clamp(min=0) + (logit_N - left_N).clamp(max=0)
        return torch.lerp(low_N, high_N, share_N) + beyond_N
