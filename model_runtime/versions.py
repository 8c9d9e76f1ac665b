"""What the runtime asks of a version, whatever network it is: the unified one, or a program of the user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import nn

from control_plane.domain.manifest import Manifest
from control_plane.domain.model_version import Digest, VersionId
from model_runtime import checkpoints
from model_runtime.checkpoints import Activations, Observe, Prepare, read_manifest
from model_runtime.networks.engagement import RowTensors, Shared
from model_runtime.networks.features import FeatureSpec, FloatArray, RowBatch
from model_runtime.networks.nulls import RateArray
from model_runtime.programs.loaded import is_program, load_program


class Version(Protocol):
    """One surface's version, ready to score; threads may share it.

    `trunk` is what versions have in common whose rows may meet in one forward, `modules` all that holds weights.
    """

    @property
    def manifest(self) -> Manifest: ...

    @property
    def spec(self) -> FeatureSpec: ...

    @property
    def trunk(self) -> nn.Module: ...

    @property
    def modules(self) -> tuple[nn.Module, ...]: ...

    @property
    def device(self) -> str: ...

    @property
    def null_rate_F(self) -> RateArray | None: ...

    @property
    def precision(self) -> str: ...

    @property
    def version_id(self) -> VersionId: ...

    def score(self, batch: RowBatch, *, observe: Observe | None = None) -> Mapping[str, FloatArray]:
        """Probabilities by task, each of shape (N,); `InvalidField` where the batch breaks the feature contract."""

    def activations(self, batch: RowBatch, *, observe: Observe | None = None) -> Activations:
        """What the trunk knows of each row, for `score_shared` of any version that `reads_activations_of` this one."""

    def score_shared(self, shared: Shared, rows: RowTensors) -> Mapping[str, FloatArray]:
        """The same as `score`, from the trunk's activations."""

    def reads_activations_of(self, other: "Version") -> bool:
        """Whether this version may score the other's activations."""


def load_version(
    folder: Path,
    *,
    device: str = "cpu",
    trunks: dict[Digest, nn.Module] | None = None,
    prepare: Prepare = lambda verified, golden: verified,
) -> Version:
    """Verify and load a version of either kind; see `checkpoints.load_version` and `load_program`.

    `prepare` is for the unified network alone: a program serves as it was exported.
    """
    if is_program(read_manifest(folder)):
        return load_program(folder, device=device, trunks=trunks)
    return checkpoints.load_version(folder, device=device, trunks=trunks, prepare=prepare)
