"""The Triton kernel against the plain reference, on every type of row and many shapes; on CUDA or interpreted.

Shapes: B rows, C categorical features, F multi-hot features, M their values, E embedding width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model_runtime.kernels import reference
from model_runtime.kernels.choice import EmbeddingKernel, bags_of
from model_runtime.kernels.rows import Rows, to_int8

WIDTHS = (1, 16, 24, 130)
SIZES = (0, 1, 65)
ROW_TYPES = ("fp32", "fp16", "int8")
CARDINALITY = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """`worst` is the largest difference, as a share of the largest number of the reference's result."""

    name: str
    worst: float


def kernel_parity(kernel: EmbeddingKernel, device: str) -> Iterator[Case]:
    for rows_of in ROW_TYPES:
        for width in WIDTHS:
            rows = stored(some_table(40 * CARDINALITY, width, device), rows_of)
            worst = [_one_hot(kernel, rows, size, features) for size in SIZES for features in (1, 3, 26)]
            yield Case(name=f"one-hot, {rows_of} rows of {width}", worst=max(worst))
            worst = [
                _multi_hot(kernel, rows, size, counts) for size in SIZES for counts in ((1,), (4, 1, 2), (9, 3, 12))
            ]
            yield Case(name=f"multi-hot, {rows_of} rows of {width}", worst=max(worst))
        yield Case(name=f"outside of the table, {rows_of} rows", worst=_outside(kernel, device, rows_of))


def some_table(num_rows: int, width: int, device: str) -> Tensor:
    return torch.rand(num_rows, width, generator=torch.Generator().manual_seed(width)).sub_(0.5).to(device)


def stored(table_RE: Tensor, row_type: str) -> Rows:
    match row_type:
        case "fp32":
            return Rows(table_RE)
        case "fp16":
            return Rows(table_RE.half())
        case _:
            return to_int8(table_RE)


def _one_hot(kernel: EmbeddingKernel, rows: Rows, size: int, features: int) -> float:
    device = rows.value_RE.device
    index_BC = _drawn(CARDINALITY, (size, features)).to(device)
    start_C = torch.arange(features, device=device) * CARDINALITY
    return _worst(kernel.look_up(rows, index_BC, start_C), reference.look_up(rows, index_BC, start_C))


def _multi_hot(kernel: EmbeddingKernel, rows: Rows, size: int, counts: tuple[int, ...]) -> float:
    device = rows.value_RE.device
    index_BM = (_drawn(CARDINALITY, (size, sum(counts))) * _drawn(2, (size, sum(counts)))).to(device)
    bags = bags_of(tuple(CARDINALITY * place for place in range(len(counts))), counts, device=device)
    return _worst(kernel.look_up_bags(rows, index_BM, bags), reference.look_up_bags(rows, index_BM, bags))


def _outside(kernel: EmbeddingKernel, device: str, row_type: str) -> float:
    """Rows that no table has are 0, whatever lies in memory there."""
    rows = stored(some_table(10, 16, device), row_type)
    index_BC = torch.tensor([[10], [-1], [1 << 40], [-(1 << 40)]], device=device)
    return float(kernel.look_up(rows, index_BC, torch.zeros(1, dtype=torch.int64, device=device)).abs().max())


def _drawn(high: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


def _worst(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not expected.numel():
        return 0.0
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return float(difference.nan_to_num(nan=torch.inf))
