"""The embedding look-ups of `reference` as Triton kernels, for CUDA: one launch for all features of a table.

Rows are read where they lie, widened to 4 bytes in registers, and written once. Sums run over a feature's values in
their order, so that results differ from the reference's by rounding alone: see `TOLERANCE`.
A row outside the table, which checked batches do not have, is read as 0 and never from memory.

Shapes: B rows of a batch, C categorical features, F multi-hot features, M their values, E embedding width.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_runtime.kernels.reference import Bags
from model_runtime.kernels.rows import Rows

ELEMENTS = 2_048  # of the output written by one program: sixteen for each of its 128 threads, so loads overlap
NUM_WARPS = 4
MAX_OUT = 1 << 31  # rows written by one launch: places are counted in 4 bytes


def look_up(rows: Rows, index_BC: Tensor, start_C: Tensor) -> Tensor:
    """As `reference.look_up`."""
    index_BC = index_BC.contiguous()
    out_BCE = torch.empty((*index_BC.shape, rows.width), dtype=torch.float32, device=index_BC.device)
    count = index_BC.numel()
    assert count < MAX_OUT
    if count:
        lanes, places = _tile(rows)
        with _device_of(index_BC):
            one_hot_kernel[(triton.cdiv(count, places),)](
                *(index_BC, start_C.contiguous(), rows.value_RE, _affine(rows), out_BCE),
                *(count, len(start_C), len(rows.value_RE)),
                WIDTH=rows.width,
                LANES=lanes,
                PLACES=places,
                HAS_AFFINE=rows.affine_R2 is not None,
                num_warps=NUM_WARPS,
            )
    return out_BCE


def look_up_bags(rows: Rows, index_BM: Tensor, bags: Bags) -> Tensor:
    """As `reference.look_up_bags`."""
    index_BM = index_BM.contiguous()
    out_BFE = torch.empty((len(index_BM), len(bags.start_F), rows.width), dtype=torch.float32, device=index_BM.device)
    count = len(index_BM) * len(bags.start_F)
    assert count < MAX_OUT
    if count:
        lanes, places = _tile(rows)
        with _device_of(index_BM):
            bags_kernel[(triton.cdiv(count, places),)](
                *(index_BM, bags.start_F, bags.begin_F, bags.count_F, rows.value_RE, _affine(rows), out_BFE),
                *(count, len(bags.start_F), index_BM.shape[1], len(rows.value_RE)),
                MAX_VALUES=bags.max_values,
                WIDTH=rows.width,
                LANES=lanes,
                PLACES=places,
                HAS_AFFINE=rows.affine_R2 is not None,
                num_warps=NUM_WARPS,
            )
    return out_BFE


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever device its pointers are of."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _tile(rows: Rows) -> tuple[int, int]:
    """Lanes across a row and rows of one program: both powers of two, as Triton wants them."""
    lanes = triton.next_power_of_2(rows.width)
    return lanes, max(1, ELEMENTS // lanes)


def _affine(rows: Rows) -> Tensor:
    """A pointer must be given; where there is nothing to read, nothing is."""
    return rows.value_RE if rows.affine_R2 is None else rows.affine_R2


def _one_hot(  # type: ignore[no-untyped-def]  # pointers and numbers of a device, which have no type here
    index, start, table, affine, out, num_out, num_features, num_rows,
    WIDTH: tl.constexpr, LANES: tl.constexpr, PLACES: tl.constexpr, HAS_AFFINE: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    is_out = place < num_out
    lane = tl.arange(0, LANES)
    first = tl.load(start + place % num_features, mask=is_out, other=0)
    row = first + tl.load(index + place, mask=is_out, other=0)
    is_read = is_out & (row >= 0) & (row < num_rows)
    is_lane = (lane < WIDTH)[None, :]
    value = tl.load(table + row[:, None] * WIDTH + lane[None, :], mask=is_read[:, None] & is_lane, other=0)
    value = value.to(tl.float32)
    if HAS_AFFINE:
        scale = tl.load(affine + 2 * row, mask=is_read, other=0.0)
        shift = tl.load(affine + 2 * row + 1, mask=is_read, other=0.0)
        value = value * scale[:, None] + shift[:, None]
    tl.store(out + place.to(tl.int64)[:, None] * WIDTH + lane[None, :], value, mask=is_out[:, None] & is_lane)


def _bags(  # type: ignore[no-untyped-def]  # the same
    index, start, begin, count, table, affine, out, num_out, num_features, num_values, num_rows,
    MAX_VALUES: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, PLACES: tl.constexpr, HAS_AFFINE: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    is_out = place < num_out
    lane = tl.arange(0, LANES)
    is_lane = (lane < WIDTH)[None, :]
    feature = place % num_features
    first_row = tl.load(start + feature, mask=is_out, other=0)
    values = tl.load(count + feature, mask=is_out, other=0)
    first = (place // num_features).to(tl.int64) * num_values + tl.load(begin + feature, mask=is_out, other=0)
    total = tl.zeros((PLACES, LANES), dtype=tl.float32)
    given = tl.zeros((PLACES,), dtype=tl.float32)
    for step in range(MAX_VALUES):
        category = tl.load(index + first + step, mask=is_out & (step < values), other=0)
        row = first_row + category
        is_given = category != 0
        is_read = is_given & (row >= 0) & (row < num_rows)
        value = tl.load(table + row[:, None] * WIDTH + lane[None, :], mask=is_read[:, None] & is_lane, other=0)
        value = value.to(tl.float32)
        if HAS_AFFINE:
            scale = tl.load(affine + 2 * row, mask=is_read, other=0.0)
            shift = tl.load(affine + 2 * row + 1, mask=is_read, other=0.0)
            value = value * scale[:, None] + shift[:, None]
        total += value
        given += is_given.to(tl.float32)
    mean = total / tl.maximum(given, 1.0)[:, None]
    tl.store(out + place.to(tl.int64)[:, None] * WIDTH + lane[None, :], mean, mask=is_out[:, None] & is_lane)


# Sizes change with every request: compiled for any, or each new one would wait for a compiler.
one_hot_kernel = triton.jit(_one_hot, do_not_specialize=["num_out", "num_features", "num_rows"])
bags_kernel = triton.jit(_bags, do_not_specialize=["num_out", "num_features", "num_values", "num_rows"])
