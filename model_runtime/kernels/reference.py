"""Embedding look-ups in plain torch: what every kernel must equal, and what a CPU runs.

Shapes: B rows of a batch, C categorical features, F multi-hot features, M their values, E embedding width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model_runtime.kernels.rows import Rows


class Bags(NamedTuple):
    """Where multi-hot features lie: feature f's first row of the table, its first value of the input, and how many.

    `row_M` is the first row of each value's feature. Values are padded with 0, which counts nowhere.
    """

    start_F: Tensor
    begin_F: Tensor
    count_F: Tensor
    row_M: Tensor
    max_values: int


def look_up(rows: Rows, index_BC: Tensor, start_C: Tensor) -> Tensor:
    """Column c's category i is row `start_C[c] + i`; shape (B, C, E), 4-byte numbers."""
    row_BC = index_BC + start_C
    value_BCE = functional.embedding(row_BC, rows.value_RE).float()
    if rows.affine_R2 is None:
        return value_BCE
    affine_BC2 = functional.embedding(row_BC, rows.affine_R2)
    return torch.addcmul(affine_BC2[..., 1:], value_BCE, affine_BC2[..., :1])


def look_up_bags(rows: Rows, index_BM: Tensor, bags: Bags) -> Tensor:
    """The mean over the values given of each feature, 0 where none is; shape (B, F, E), 4-byte numbers."""
    is_given_BM = index_BM != 0
    value_BME = look_up(rows, index_BM, bags.row_M) * is_given_BM[:, :, None]
    feature_M = torch.repeat_interleave(bags.count_F, output_size=index_BM.shape[1])
    size, num_features = len(index_BM), len(bags.start_F)
    sum_BFE = value_BME.new_zeros(size, num_features, rows.width).index_add_(1, feature_M, value_BME)
    given_BF = value_BME.new_zeros(size, num_features).index_add_(1, feature_M, is_given_BM.to(value_BME.dtype))
    return sum_BFE / given_BF.clamp(min=1.0)[:, :, None]
