"""The embedding kernel's bandwidth against that of a copy within the device's memory.

Counted are the bytes that must move: indices, rows as they are stored, and results; rows are drawn evenly from tables
far larger than any cache.
Shapes: B rows, C categorical features, F multi-hot features, M their values, E embedding width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_run.parity import ROW_TYPES, stored
from benchmarks.gpu_run.scale import Scale
from benchmarks.gpu_run.timing import seconds_of
from model_runtime.kernels.choice import EmbeddingKernel, bags_of
from model_runtime.kernels.rows import Rows

FEATURES = 26  # as the common click logs have
WIDTHS = (64, 16)
BAGS, VALUES = 8, 8  # multi-hot features, and the values of each


@dataclass(frozen=True, kw_only=True, slots=True)
class Bandwidth:
    name: str
    bytes_per_second: float
    share_of_copy: float


def copy_bandwidth(device: str, scale: Scale) -> float:
    """Bytes read and written a second."""
    source = torch.empty(scale.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * scale.copy_bytes / seconds_of(lambda: target.copy_(source), device, scale.rounds)


def bandwidths(kernel: EmbeddingKernel, device: str, scale: Scale, copy: float) -> Iterator[Bandwidth]:
    """Of the kernel over every type of row, and of torch's own look-up beside it."""

    def measured(name: str, moved: int, work: Callable[[], object]) -> Bandwidth:
        found = moved / seconds_of(work, device, scale.rounds)
        return Bandwidth(name=name, bytes_per_second=found, share_of_copy=found / copy)

    for width in WIDTHS:
        table_RE = torch.rand(FEATURES * scale.table_rows, width, device=device)
        index_BC = torch.randint(0, scale.table_rows, (scale.look_up_rows, FEATURES), device=device)
        index_BM = torch.randint(1, scale.table_rows, (scale.look_up_rows // 8 or 1, BAGS * VALUES), device=device)
        start_C = torch.arange(FEATURES, device=device) * scale.table_rows
        bags = bags_of(tuple(start_C[:BAGS].tolist()), (VALUES,) * BAGS, device=device)
        for row_type in ROW_TYPES:
            rows = stored(table_RE, row_type)
            moved = _moved(rows, index_BC, index_BC.numel())
            work = _one_hot(kernel, rows, index_BC, start_C)
            yield measured(f"{kernel.name}, one-hot, {row_type} rows of {width}", moved, work)
            moved = _moved(rows, index_BM, len(index_BM) * BAGS)
            yield measured(
                f"{kernel.name}, mean of {VALUES}, {row_type} rows of {width}",
                moved,
                lambda rows=rows, index=index_BM, bags=bags: kernel.look_up_bags(rows, index, bags),  # type: ignore[misc]
            )
        moved = _moved(Rows(table_RE), index_BC, index_BC.numel())
        yield measured(f"torch, one-hot, fp32 rows of {width}", moved, _by_torch(table_RE, index_BC, start_C))


def _one_hot(kernel: EmbeddingKernel, rows: Rows, index_BC: Tensor, start_C: Tensor) -> Callable[[], Tensor]:
    return lambda: kernel.look_up(rows, index_BC, start_C)


def _by_torch(table_RE: Tensor, index_BC: Tensor, start_C: Tensor) -> Callable[[], Tensor]:
    return lambda: functional.embedding(index_BC + start_C, table_RE)


def _moved(rows: Rows, index: Tensor, num_out: int) -> int:
    """Indices and rows read once for each value, results of 4 bytes written once."""
    of_row = rows.num_bytes // len(rows.value_RE)
    return index.numel() * (index.element_size() + of_row) + num_out * rows.width * 4
