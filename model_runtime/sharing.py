"""One copy in memory of what versions hold alike: a head, a calibrator, a table that training left as it was."""

from collections.abc import Iterable

import torch
from torch import nn

from model_runtime.versions import Version


def share_tensors(version: Version, others: Iterable[Version]) -> None:
    """Let the version's tensors be those of others that hold the same under the same name; its own are let go.

    Call before anyone scores with the version. Weights are read only, so nobody sees a difference.
    """
    for other in others:
        if other.device == version.device:
            for module, its in zip(version.modules, other.modules, strict=False):
                _share(module, its)


def _share(module: nn.Module, other: nn.Module) -> None:
    if module is other:
        return
    there = dict(_tensors(other))
    for name, tensor in _tensors(module):
        found = there.get(name)
        if found is not None and _is_same(tensor, found):
            tensor.data = found.data


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _is_same(mine: torch.Tensor, its: torch.Tensor) -> bool:
    return mine.shape == its.shape and mine.dtype == its.dtype and torch.equal(mine, its)
