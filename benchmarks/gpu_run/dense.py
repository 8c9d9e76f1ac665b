"""The dense part, crossing to heads, in every profile that multiplies differently: its rate, and the card's own.

Its sizes are those of a model that needs a GPU; the project's defaults are a tenth of them.
Shapes: N rows, X width of what is crossed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_run.scale import Scale
from benchmarks.gpu_run.timing import seconds_of
from model_runtime.networks.crossing import Crossing, CrossingConfig
from model_runtime.networks.experts import Experts, ExpertsConfig
from model_runtime.networks.heads import HeadConfig, OwnFeatures, Shared, SurfaceHead
from model_runtime.precision import BF16, FP32, TF32, computing_as
from model_runtime.profiles import with_short_weights

CROSSED_WIDTH = 2_048
CROSSING = CrossingConfig(num_layers=3, rank=512)
EXPERTS = ExpertsConfig(num_experts=8, width=512)
HEAD = HeadConfig(tower_width=256)


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseRate:
    """Of one profile: `seconds` of the dense part, its multiplications and additions a second, and a matrix's own."""

    precision: str
    seconds: float
    flops: float
    matrix_flops: float


class DensePart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.crossing = Crossing(CROSSED_WIDTH, CROSSING)
        self.experts = Experts(CROSSED_WIDTH, EXPERTS)
        self.head = SurfaceHead(CROSSED_WIDTH, EXPERTS, HEAD)

    def forward(self, first_NX: Tensor) -> Tensor:
        crossed_NX = self.crossing(first_NX)
        none = first_NX.new_empty((len(first_NX), 0))
        logit_NT: Tensor = self.head(Shared(crossed_NX, self.experts(crossed_NX)), OwnFeatures(none, none))
        return logit_NT


def dense_rates(device: str, scale: Scale) -> Iterator[DenseRate]:
    torch.manual_seed(0)
    part = DensePart().eval().requires_grad_(False).to(device)
    first_NX = torch.randn(scale.dense_rows, CROSSED_WIDTH, device=device) * 0.1
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        part(first_NX)
    for precision in (FP32, TF32, BF16):
        served = with_short_weights(part) if precision == BF16 else part
        with torch.inference_mode(), computing_as(precision, device):
            seconds = seconds_of(lambda served=served: served(first_NX), device, scale.rounds)  # type: ignore[misc]
            matrix_flops = _matrix_flops(precision, device, scale)
        flops = counter.get_total_flops() / seconds
        yield DenseRate(precision=precision, seconds=seconds, flops=flops, matrix_flops=matrix_flops)


def _matrix_flops(precision: str, device: str, scale: Scale) -> float:
    """Of a square product as large as the card likes them."""
    dtype = torch.bfloat16 if precision == BF16 else torch.float32
    left, right = (torch.randn(scale.matrix, scale.matrix, device=device, dtype=dtype) for _ in range(2))
    return 2 * scale.matrix**3 / seconds_of(lambda: left @ right, device, max(2, scale.rounds // 3))
