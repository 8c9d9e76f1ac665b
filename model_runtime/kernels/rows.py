"""How the rows of a flat embedding table are stored: as numbers of 4 or 2 bytes, or of 1 byte with a line per row.

Shapes: R rows of the table, E embedding width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 255  # steps between the least and the largest number of a row: those of 8 bits
LOWEST = -128  # of a signed byte


class Rows(NamedTuple):
    """A row is `value`, or `scale * value + shift` where `affine_R2` has those two of each row, as 4-byte numbers."""

    value_RE: Tensor
    affine_R2: Tensor | None = None

    @property
    def width(self) -> int:
        return self.value_RE.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.value_RE.nbytes + (0 if self.affine_R2 is None else self.affine_R2.nbytes)


def to_int8(table_RE: Tensor) -> Rows:
    """Round each row to 256 levels between its own least and largest number; a constant row stays exact.

    No number moves by more than half a level, `(largest - least) / 510` of its row, beside the rounding of 4-byte
    numbers. A row with a number that is not finite becomes NaN as a whole: what scored badly goes on to.

    Source: row-wise uniform quantisation, arXiv:1911.02079, section 2.
    """
    least_R1, largest_R1 = table_RE.float().aminmax(dim=1, keepdim=True)
    scale_R1 = (largest_R1 - least_R1) / LEVELS
    is_constant_R1 = scale_R1 == 0
    level_RE = ((table_RE.float() - least_R1) / scale_R1.masked_fill(is_constant_R1, 1.0)).round() + LOWEST
    value_RE = level_RE.masked_fill(is_constant_R1, 0.0).nan_to_num(0.0).clamp(LOWEST, LOWEST + LEVELS)
    shift_R1 = torch.where(is_constant_R1, least_R1, least_R1 - LOWEST * scale_R1)
    is_finite_R1 = scale_R1.isfinite()
    affine_R2 = torch.cat((scale_R1, shift_R1), dim=1).masked_fill(~is_finite_R1, torch.nan)
    return Rows(value_RE.to(torch.int8), affine_R2.contiguous())
