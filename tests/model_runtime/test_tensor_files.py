"""Bytes to tensors as the format's own library reads them, and nothing that is not whole."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from control_plane.domain.errors import UnsafeArtifact
from model_runtime.tensor_files import DTYPES, read_tensors

PATH = Path("trunk.safetensors")


def a_file(entry: object, data: bytes = bytes(24), *, padding: int = 0) -> bytes:
    header = json.dumps({"weight": entry}).encode() + b" " * padding
    return len(header).to_bytes(8, "little") + header + data


def test_every_type_and_shape_is_read_as_the_library_reads_it() -> None:
    written = {name: (torch.arange(6) % 2).to(dtype).view(2, 3) for name, dtype in DTYPES.items()}
    written |= {"number": torch.tensor(2.5), "nothing": torch.zeros(0, 4), "odd": torch.tensor([1], dtype=torch.int8)}
    content = safetensors.torch.save(written, metadata={"step": "3"})

    found = read_tensors(content, PATH)

    assert found.keys() == written.keys()
    for name, tensor in safetensors.torch.load(content).items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("shift", range(8))
def test_numbers_are_read_wherever_they_lie(shift: int) -> None:
    values = torch.tensor([1.5, -2.0, 3.25], dtype=torch.float64)
    data = bytes(shift) + values.numpy().tobytes()
    entry = {"dtype": "F64", "shape": [3], "data_offsets": [shift, shift + 24]}

    assert torch.equal(read_tensors(a_file(entry, data, padding=shift), PATH)["weight"], values)


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": "F8_E4M3"},
        {"dtype": None},
        {"shape": [5]},
        {"shape": [-1]},
        {"shape": [True, 6]},
        {"shape": [1 << 62, 1 << 62]},
        {"shape": "23"},
        {"data_offsets": [-8, 24]},
        {"data_offsets": [8, 0, 24]},
        {"data_offsets": ["0", 24]},
        {"data_offsets": [1, 24]},
    ],
)
def test_an_entry_that_its_bytes_do_not_bear_out_is_refused(changed: dict[str, object]) -> None:
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changed}

    with pytest.raises(UnsafeArtifact, match="safetensors"):
        read_tensors(a_file(entry), PATH)
