"""A version that is a program of the user's own: verified, bounded and tried before it scores for anybody.

Its files have the names of every version's: `trunk.safetensors` holds the graph as JSON bytes beside its weights,
`surface.safetensors` which outputs are whose probabilities, and the calibrator is of our own kind.
Shapes: U users, N candidate rows, T tasks, O outputs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from control_plane.domain.errors import GoldenMismatch, InvalidField, InvalidManifest, UnsafeArtifact
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, Manifest
from control_plane.domain.model_version import Digest, Part, VersionId
from model_runtime.batching import USER_FIELDS, of_users
from model_runtime.checkpoints import (
    CALIBRATOR,
    Activations,
    Observe,
    build,
    check_golden,
    read_manifest,
    read_null_rates,
    read_num_knots,
    read_spec,
    read_tensors,
    verified,
)
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import CLICK, TASKS, RowTensors, Shared, to_tensors
from model_runtime.networks.features import FeatureSpec, FloatArray, RowBatch, check_batch
from model_runtime.networks.nulls import RateArray
from model_runtime.precision import FP32
from model_runtime.programs.graph import Graph, read_json
from model_runtime.programs.limits import check_limits
from model_runtime.programs.program import Program, first_line

if TYPE_CHECKING:
    from model_runtime.versions import Version

PROGRAM = "program"  # of a manifest's config: that the version is one
GRAPH, BINDING = "graph", "binding"  # JSON as the bytes of a tensor
WEIGHT_PREFIX = "weight."
KINDS = ("logits", "probabilities")
USER_INDEX = "user_index_N"  # a program that reads it takes each user once, any other takes one for each row
SMALLEST_PROBABILITY = 1e-7  # whose logit is told; a program that says 0 or 1 is sure beyond what a float can hold
NO_GATES = np.ones((1, len(TASKS), 1), np.float32)  # of one expert: nothing to observe


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """Which task each column of the outputs is, and whether they are logits or probabilities.

    It names its surface and its program, so that no two programs have the same digest for it.
    """

    surface: str
    trunk: Digest
    tasks: tuple[str, ...]
    kind: str

    def __post_init__(self) -> None:
        if sorted(self.tasks) != sorted(TASKS):
            raise InvalidField(
                "outputs", f"must be {', '.join(TASKS)}, in any order, not {', '.join(self.tasks)[:100]}"
            )
        if self.kind not in KINDS:
            raise InvalidField("kind", f"must be one of {', '.join(KINDS)}, not {self.kind[:100]!r}")

    def to_json(self) -> str:
        told = {"surface": self.surface, "trunk": self.trunk, "tasks": list(self.tasks), "kind": self.kind}
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: bytes) -> "Binding":
        told = read_json(BINDING, text)
        tasks = told.get("tasks")
        if not isinstance(tasks, list):
            raise InvalidField("tasks", "must be a list")
        return cls(
            surface=str(told.get("surface")),
            trunk=Digest(str(told.get("trunk"))),
            tasks=tuple(map(str, tasks)),
            kind=str(told.get("kind")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedProgram:
    """One surface's version that is a program; threads may share it."""

    manifest: Manifest
    spec: FeatureSpec
    trunk: Program
    binding: Binding
    calibrator: Calibrator
    device: str
    null_rate_F: RateArray | None = None

    @property
    def precision(self) -> str:
        """Its own: the graph says which numbers it computes with."""
        return FP32

    @property
    def version_id(self) -> VersionId:
        return self.manifest.version.version_id

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All that holds weights."""
        return (self.trunk, self.calibrator)

    def score(self, batch: RowBatch, *, observe: Observe | None = None) -> dict[str, FloatArray]:
        """Probabilities by task, each of shape (N,); the click's are calibrated by view type.

        Raises:
            InvalidField: the batch breaks the feature contract, or the program fails on it.
        """
        return self.score_shared(*self.activations(batch, observe=observe))

    def activations(self, batch: RowBatch, *, observe: Observe | None = None) -> Activations:
        """The program's own outputs, which only a calibrator goes on from: (N, O) in the place of what is crossed."""
        surface = self.manifest.version.surface
        with torch.inference_mode():
            checked = check_batch(self.spec, surface, batch)
            rows = to_tensors(self.spec, surface, checked, device=self.device)
            output_NO = _columns(self._run(fields_of(self.trunk.graph, rows)), len(rows.user_index_N))
            if observe is not None:
                observe(checked, NO_GATES)
            return Activations(Shared(output_NO, output_NO.new_empty((len(output_NO), 0, 0))), rows)

    def score_shared(self, shared: Shared, rows: RowTensors) -> dict[str, FloatArray]:
        """The same as `score`, from the program's outputs."""
        with torch.inference_mode():
            order = [self.binding.tasks.index(task) for task in TASKS]
            logit_NT = shared.crossed_NX[:, order].float()
            if self.binding.kind == "probabilities":
                logit_NT = logit_NT.logit(eps=SMALLEST_PROBABILITY)
            click_N = self.calibrator(logit_NT[:, CLICK], rows.view_type_N)
            logit_NT = torch.cat((click_N[:, None], logit_NT[:, CLICK + 1 :]), dim=1)
            probability_TN = logit_NT.sigmoid().T.contiguous().cpu().numpy()
            return dict(zip(TASKS, probability_TN, strict=True))

    def reads_activations_of(self, other: "Version") -> bool:
        """Whether this version may score the other's activations: one program, one surface, the same inputs."""
        mine, its = self.manifest.version, other.manifest.version
        is_same = (mine.surface, mine.trunk, mine.feature_signature) == (its.surface, its.trunk, its.feature_signature)
        is_alike = (self.spec, self.device, self.precision) == (other.spec, other.device, other.precision)
        return is_same and is_alike

    def _run(self, fields: dict[str, Tensor]) -> list[Tensor]:
        try:
            return self.trunk(fields)  # type: ignore[no-any-return]  # a Program's forward
        except (
            ArithmeticError,
            IndexError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # what ATen raises of arguments
            raise InvalidField("graph", f"fails on these rows: {first_line(error)}") from error


def is_program(manifest: Manifest) -> bool:
    return PROGRAM in manifest.config


def load_program(folder: Path, *, device: str = "cpu", trunks: dict[Digest, nn.Module] | None = None) -> LoadedProgram:
    """Verify and load one program; `trunks` holds those already loaded, by digest, and gains this one's.

    Nothing of it runs before its graph was checked, call by call, and measured without memory at the largest batch
    that a runtime may give it.

    Raises:
        InvalidManifest: the manifest is missing or malformed.
        UnsafeArtifact: a file is missing, truncated or no safetensors, or its graph does what none may.
        DigestMismatch: a file or the feature contract is not what the manifest promises.
        GoldenMismatch: the program does not give the recorded scores, or gives a row others beside other rows.
    """
    manifest = read_manifest(folder)
    content = {name: verified(folder / name, manifest) for name in (*FILE_OF.values(), GOLDEN_FILE)}
    spec = read_spec(manifest)
    resident = (trunks or {}).get(manifest.version.trunk)
    trunk_path = folder / FILE_OF[Part.TRUNK]
    program = resident if isinstance(resident, Program) else _program(content[trunk_path.name], trunk_path, device)
    binding = _binding(content[FILE_OF[Part.SURFACE_EXPORT]], folder / FILE_OF[Part.SURFACE_EXPORT], manifest)
    calibrator_path, num_knots = folder / FILE_OF[Part.CALIBRATOR], read_num_knots(manifest.config.get(CALIBRATOR))
    num_view_types = len(manifest.view_types)
    loaded = LoadedProgram(
        manifest=manifest,
        spec=spec,
        trunk=program,
        binding=binding,
        calibrator=build(lambda: Calibrator(num_view_types, num_knots), content, calibrator_path, device),
        device=device,
        null_rate_F=read_null_rates(manifest, spec),
    )
    try:
        check_program(loaded)
        check_rows_alone(loaded, check_golden(loaded, content[GOLDEN_FILE], folder / GOLDEN_FILE))
    except InvalidField as error:
        raise UnsafeArtifact(str(trunk_path), f"{error.field}: {error.rule}") from None
    if trunks is not None:
        trunks[manifest.version.trunk] = program
    return loaded


def check_program(loaded: LoadedProgram) -> None:
    """Refuse a program that reads what there is not, or that needs more memory than a forward may.

    Raises:
        InvalidField: says which.
    """
    widths = loaded.spec.widths(loaded.manifest.version.surface)
    known = [name for name in RowBatch.__slots__ if widths.get(name, 1)]
    for field in loaded.trunk.graph.inputs.values():
        if field not in known:
            raise InvalidField("inputs", f"{field!r} is nothing that this surface has; known: {', '.join(known)}")
    serving = loaded.manifest.serving
    check_limits(loaded.trunk, widths, max_users=serving.max_unique_users if serving else None)


def check_rows_alone(loaded: LoadedProgram, batch: RowBatch) -> None:
    """Refuse a program to which it matters who shares a forward: `GoldenMismatch` says by how much."""
    whole = loaded.score(batch)
    of_first = of_users(batch, np.arange(batch.num_users) == batch.user_index_N[0])
    parts = [(np.arange(1), batch.take(np.arange(1))), (of_first.row_M, of_first.batch)]
    for row_M, part in parts:
        alone = loaded.score(part)
        worst = max(float(np.abs(alone[task] - whole[task][row_M]).max()) for task in TASKS)
        if not worst <= loaded.manifest.golden_tolerance:
            raise GoldenMismatch(loaded.version_id, worst=worst, tolerance=loaded.manifest.golden_tolerance)


def fields_of(graph: Graph, rows: RowTensors) -> dict[str, Tensor]:
    """What the graph reads: users once where it reads their index, too, else one for each row."""
    wanted = set(graph.inputs.values())
    fields = {name: getattr(rows, name) for name in wanted}
    if USER_INDEX in wanted:
        return fields
    return {
        name: each.index_select(0, rows.user_index_N) if name in USER_FIELDS else each for name, each in fields.items()
    }


def json_tensor(text: str) -> Tensor:
    """JSON as safetensors can hold it."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _columns(outputs: list[Tensor], num_rows: int) -> Tensor:
    """One column for each output, or those of the one that there is; shape (N, O)."""
    columns = outputs[0] if len(outputs) == 1 and outputs[0].dim() == 2 else None
    if columns is None:
        columns = torch.stack([each.reshape(num_rows) for each in outputs], dim=1)
    if columns.shape != (num_rows, len(TASKS)) or not columns.is_floating_point():
        shape = tuple(columns.shape)
        raise InvalidField("outputs", f"must be {len(TASKS)} numbers for each of {num_rows} rows, not {shape}")
    return columns


def _program(content: bytes, path: Path, device: str) -> Program:
    tensors = read_tensors(content, path)
    graph_tensor = tensors.pop(GRAPH, None)
    foreign = [name for name in tensors if not name.startswith(WEIGHT_PREFIX)]
    if graph_tensor is None or foreign:
        raise UnsafeArtifact(str(path), f"holds the foreign tensor {foreign[0]!r}" if foreign else "lacks a graph")
    weights = {name.removeprefix(WEIGHT_PREFIX): tensor for name, tensor in tensors.items()}
    try:
        graph = Graph.from_json(_bytes(graph_tensor))
        if unread := weights.keys() - set(graph.weights.values()):
            raise InvalidField("weights", f"hold {min(unread)!r}, which the graph does not read")
        return Program(graph, weights, device=device).requires_grad_(False).eval()
    except InvalidField as error:
        raise UnsafeArtifact(str(path), f"{error.field}: {error.rule}") from None


def _binding(content: bytes, path: Path, manifest: Manifest) -> Binding:
    tensors = read_tensors(content, path)
    if list(tensors) != [BINDING]:
        raise UnsafeArtifact(str(path), f"must hold the tensor {BINDING!r} and no other")
    try:
        binding = Binding.from_json(_bytes(tensors[BINDING]))
    except InvalidField as error:
        raise UnsafeArtifact(str(path), f"{error.field}: {error.rule}") from None
    if (binding.surface, binding.trunk) != (manifest.version.surface, manifest.version.trunk):
        raise InvalidManifest("digests.surface_export", "is of another program or surface than this version's")
    return binding


def _bytes(tensor: Tensor) -> bytes:
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise InvalidField("json", "must be the bytes of a text")
    return tensor.numpy().tobytes()
