"""Which kernel looks up embeddings: chosen once, when a version is loaded, and never while it answers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from model_runtime.kernels import reference
from model_runtime.kernels.reference import Bags
from model_runtime.kernels.rows import Rows, to_int8

TOLERANCE = 1e-6  # of the largest number of a result: kernels add in another order, and may fuse a product and a sum
PROBE_WIDTHS = (16, 24)  # a power of two, and none

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingKernel:
    """`look_up` and `look_up_bags` as `kernels.reference` has them."""

    name: str
    look_up: Callable[[Rows, Tensor, Tensor], Tensor]
    look_up_bags: Callable[[Rows, Tensor, Bags], Tensor]


REFERENCE = EmbeddingKernel(name="reference", look_up=reference.look_up, look_up_bags=reference.look_up_bags)


@cache
def kernel_for(device: str) -> EmbeddingKernel:
    """The Triton kernel on a CUDA device, if it compiles there and equals the reference; else the reference."""
    if not device.startswith("cuda"):
        return REFERENCE
    try:
        kernel = triton_kernel()
        worst = worst_difference(kernel, device)
    except Exception as error:  # no Triton, no compiler, an old driver: whatever it lacks, torch still serves
        log.warning("%s: embeddings are looked up by torch, the Triton kernel does not run: %s", device, error)
        return REFERENCE
    if not worst <= TOLERANCE:
        log.error("%s: embeddings are looked up by torch, the Triton kernel is off by %.2g", device, worst)
        return REFERENCE
    return kernel


def triton_kernel() -> EmbeddingKernel:
    """`ImportError` where Triton is not installed."""
    from model_runtime.kernels import fused  # Triton comes with torch for CUDA alone

    return EmbeddingKernel(name="triton", look_up=fused.look_up, look_up_bags=fused.look_up_bags)


def worst_difference(kernel: EmbeddingKernel, device: str, *, size: int = 257) -> float:
    """The largest difference from the reference over all row types and widths, as a share of the largest number."""
    found = [
        _difference(kernel, rows, device, size)
        for width in PROBE_WIDTHS
        for table in [torch.rand(60, width, generator=torch.Generator().manual_seed(width)).sub_(0.5).to(device)]
        for rows in (Rows(table), Rows(table.half()), to_int8(table))
    ]
    return float(np.max(found))  # NaN where one is


def _difference(kernel: EmbeddingKernel, rows: Rows, device: str, size: int) -> float:
    draw = torch.Generator().manual_seed(0)
    index_BC = torch.randint(0, 20, (size, 3), generator=draw).to(device)
    index_BM = torch.randint(0, 10, (size, 7), generator=draw).mul_(torch.randint(0, 2, (size, 1), generator=draw))
    start_C = torch.tensor([0, 20, 40], device=device)
    bags = bags_of((0, 20, 50), (4, 1, 2), device=device)
    pairs = (
        (kernel.look_up(rows, index_BC, start_C), reference.look_up(rows, index_BC, start_C)),
        (
            kernel.look_up_bags(rows, index_BM.to(device), bags),
            reference.look_up_bags(rows, index_BM.to(device), bags),
        ),
    )
    return float(np.max([float((mine - its).abs().max() / its.abs().max()) for mine, its in pairs]))


def bags_of(starts: tuple[int, ...], counts: tuple[int, ...], *, device: torch.device | str) -> Bags:
    """Multi-hot features side by side, each with its first row of the table and its number of values."""
    begins = [sum(counts[:place]) for place in range(len(counts))]
    rows = [start for start, count in zip(starts, counts, strict=True) for _ in range(count)]
    start_F, begin_F, count_F, row_M = (
        torch.tensor(each, dtype=torch.int64, device=device) for each in (starts, begins, counts, rows)
    )
    return Bags(start_F, begin_F, count_F, row_M, max(counts))
