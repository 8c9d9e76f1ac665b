"""The embedding as it serves, by the plain reference, against the embedding as it was trained."""

import pytest
import torch

from model_runtime.kernels.choice import REFERENCE, kernel_for
from model_runtime.kernels.embedding import ServedEmbedding
from model_runtime.kernels.rows import Rows, to_int8
from model_runtime.networks.embeddings import EmbeddingConfig, FusedEmbedding, MultiHotBags

CARDINALITIES = (7, 30, 4, 12)


@pytest.fixture
def trained() -> FusedEmbedding:
    torch.manual_seed(0)
    return FusedEmbedding(CARDINALITIES, EmbeddingConfig(width=6)).requires_grad_(False)


def drawn(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def test_rows_of_4_bytes_are_looked_up_bit_for_bit(trained: FusedEmbedding) -> None:
    served = ServedEmbedding(trained, Rows(trained.table), REFERENCE)

    assert torch.equal(served(drawn(4, 50, 2), first=1), trained(drawn(4, 50, 2), first=1))
    assert torch.equal(served.look_up_one(drawn(12, 8, 5), feature=3), trained.look_up_one(drawn(12, 8, 5), feature=3))
    assert served.table.data_ptr() == trained.table.data_ptr()  # not copied


@pytest.mark.parametrize("rows", [lambda t: Rows(t), lambda t: Rows(t.half()), to_int8])
def test_multi_hot_features_are_the_mean_of_what_is_given(trained: FusedEmbedding, rows: object) -> None:
    assert callable(rows)
    bags = MultiHotBags(trained.starts[2:], (3, 2))
    index_BM = drawn(4, 40, 5) * drawn(2, 40, 1)

    found = ServedEmbedding(trained, rows(trained.table), REFERENCE).pool(index_BM, bags)

    torch.testing.assert_close(found, trained.pool(index_BM, bags), atol=5e-4, rtol=0)
    assert (found[(index_BM == 0).all(1)] == 0).all()


def test_the_means_of_rows_of_4_bytes_differ_by_rounding_alone(trained: FusedEmbedding) -> None:
    bags = MultiHotBags(trained.starts[2:], (3, 2))
    served = ServedEmbedding(trained, Rows(trained.table), REFERENCE)

    found, expected = (each.pool(drawn(4, 40, 5), bags) for each in (served, trained))

    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_a_cpu_is_served_by_the_reference() -> None:
    assert kernel_for("cpu") is REFERENCE


def test_a_cuda_device_without_its_kernel_is_served_by_the_reference_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")

    assert kernel_for("cuda:7") is REFERENCE
    assert "the Triton kernel does not run" in caplog.text
