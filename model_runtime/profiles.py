"""From a version as it was verified, in fp32 by plain torch, to the version as this device serves it.

A profile changes how numbers are kept and multiplied; its parity card says what that does to scores. One that
changes them too much is refused, and fp32 serves.
"""

import copy
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from model_runtime.checkpoints import LoadedVersion
from model_runtime.fixed_forwards import with_compiled, with_graphs
from model_runtime.kernels.choice import REFERENCE, kernel_for
from model_runtime.kernels.embedding import ServedEmbedding
from model_runtime.kernels.rows import Rows, to_int8
from model_runtime.networks.engagement import Trunk
from model_runtime.networks.features import RowBatch
from model_runtime.precision import BF16, FP32, INT8_ROWS, ParityLimits, parity, sample_of
from model_runtime.settings import AS_EXPORTED
from model_runtime.sharing import share_tensors
from model_runtime.versions import Version

log = logging.getLogger(__name__)


def serve_as(
    verified: LoadedVersion,
    golden: RowBatch,
    *,
    precision: str = AS_EXPORTED,
    resident: Iterable[Version] = (),
    limits: ParityLimits | None = None,
) -> LoadedVersion:
    """Put a version into its profile, and compare it with what it was on every golden user × candidate.

    Args:
        precision: a profile, or AS_EXPORTED for the one that the manifest names (fp32 where it names none).
        resident: versions in memory: one of the same trunk and profile lends its own.
    """
    wanted = _exported(verified) if precision == AS_EXPORTED else precision
    is_cuda, resident = verified.device.startswith("cuda"), list(resident)
    if wanted == FP32 and not is_cuda:
        return _with_compiled(verified, golden)
    sample = sample_of(golden)
    expected = verified.score(sample)
    refused = ""
    for name in dict.fromkeys((wanted, FP32)):
        served = _in_profile(verified, name, resident)
        card = parity(name, verified.device, sample, expected, served.score(sample))
        if not (problem := card.problem(limits)):
            log.info("version %s serves as %s: %s", verified.version_id, name, card)
            told = replace(served, parity=card, refused=refused)
            share_tensors(told, resident)  # before a graph records where they lie
            return with_graphs(told, golden) if is_cuda else _with_compiled(told, golden)
        refused = refused or problem
        log.warning("version %s: %s; fp32 serves", verified.version_id, problem)
    return replace(verified, refused=refused)


def embedding_bytes(trunk: Trunk) -> int:
    """Of the flat table as it is kept, with what belongs to its rows."""
    return sum(tensor.nbytes for tensor in trunk.embedding.state_dict().values())


Module = TypeVar("Module", bound=nn.Module)


def with_short_weights(module: Module, *, shared: nn.Module | None = None) -> Module:
    """A copy whose matrices are bf16, so that autocast need not cast them at every forward; `shared` is not copied."""
    copied = copy.deepcopy(module, {} if shared is None else {id(shared): shared})
    for part in copied.modules():
        if isinstance(part, nn.Linear):
            part.to(torch.bfloat16)
    return copied


def _exported(version: LoadedVersion) -> str:
    return version.manifest.serving.precision if version.manifest.serving else FP32


def _with_compiled(version: LoadedVersion, golden: RowBatch) -> LoadedVersion:
    card = version.manifest.serving.compiled if version.manifest.serving else None
    return version if card is None else with_compiled(version, golden, card)


def _in_profile(verified: LoadedVersion, precision: str, resident: Iterable[Version]) -> LoadedVersion:
    alike = (each for each in resident if isinstance(each, LoadedVersion) and each.precision == precision)
    same = (each.trunk for each in alike if _is_of_trunk(each, verified))
    trunk = next(same, None) or _trunk_in_profile(verified.trunk, precision, verified.device)
    head = with_short_weights(verified.head) if precision == BF16 else verified.head
    return replace(verified, trunk=trunk, head=head, precision=precision)


def _is_of_trunk(resident: LoadedVersion, verified: LoadedVersion) -> bool:
    is_same = resident.manifest.version.trunk == verified.manifest.version.trunk
    its, mine = resident.trunk, verified.trunk
    return is_same and resident.device == verified.device and (its.spec, its.config) == (mine.spec, mine.config)


def _trunk_in_profile(trunk: Trunk, precision: str, device: str) -> Trunk:
    kernel, table = kernel_for(device), trunk.embedding.table
    if precision == INT8_ROWS:
        return trunk.with_parts(embedding=ServedEmbedding(trunk.embedding, to_int8(table), kernel))
    if kernel is not REFERENCE:
        trunk = trunk.with_parts(embedding=ServedEmbedding(trunk.embedding, Rows(table), kernel))
    if precision == BF16:
        return with_short_weights(trunk, shared=trunk.embedding)
    return trunk if precision == FP32 else trunk.with_parts()  # rows meet in one forward where the trunk is the same
