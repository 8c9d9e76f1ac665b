"""Rows of 8 bits: how far they are from what they stand for."""

import pytest
import torch

from model_runtime.kernels.reference import look_up
from model_runtime.kernels.rows import Rows, to_int8


def read_back(rows: Rows) -> torch.Tensor:
    every = torch.arange(len(rows.value_RE))[:, None]
    return look_up(rows, every, torch.zeros(1, dtype=torch.int64))[:, 0]


@pytest.mark.parametrize("spread", [1e-6, 0.1, 1e4])
def test_no_number_moves_by_more_than_half_a_level_of_its_row(spread: float) -> None:
    table_RE = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)) * spread

    read = read_back(to_int8(table_RE))

    level_R = (table_RE.amax(1) - table_RE.amin(1)) / 255
    assert ((read - table_RE).abs() <= (0.5 * level_R + 1e-6 * spread)[:, None] * 1.001).all()


def test_the_least_and_the_largest_number_of_a_row_stay() -> None:
    table_RE = torch.tensor([[-1.0, 0.3, 2.0], [5.0, 5.5, 6.0]])

    read = read_back(to_int8(table_RE))

    torch.testing.assert_close(read[:, [0, 2]], table_RE[:, [0, 2]], atol=1e-6, rtol=0)


def test_a_constant_row_stays_exact() -> None:
    table_RE = torch.tensor([[0.0] * 4, [0.3] * 4, [-1e-9] * 4, [1e30] * 4])

    assert torch.equal(read_back(to_int8(table_RE)), table_RE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_stays_visibly_bad_and_harms_no_other(bad: float) -> None:
    table_RE = torch.tensor([[0.1, 0.2], [0.3, bad], [0.5, 0.6]])

    read = read_back(to_int8(table_RE))

    assert read[1].isnan().all()
    torch.testing.assert_close(read[[0, 2]], table_RE[[0, 2]], atol=1e-3, rtol=0)


def test_rows_of_8_bits_take_a_byte_a_number_and_eight_a_row() -> None:
    assert to_int8(torch.zeros(100, 16)).num_bytes == 100 * (16 + 8)
