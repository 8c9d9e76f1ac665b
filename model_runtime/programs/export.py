"""From a `torch.export` program to an artifact folder that can be registered, shadowed and rolled out.

A `.pt2` file is read without torch's loader: it may come from anywhere. A module is the caller's own, in the caller's
process; it takes the way through a `.pt2` too, so that there is one way only.
"""

import inspect
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from control_plane.domain.errors import InvalidField
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, FittedOn, Manifest, Serving
from control_plane.domain.model_version import Digest, ModelVersion, Part, Surface, VersionId, digest_of
from model_runtime.batching import USER_FIELDS
from model_runtime.checkpoints import CALIBRATOR, NULL_RATES, golden_content, tensors_of
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import TASKS, to_tensors
from model_runtime.networks.features import FeatureSpec, IntArray, RowBatch, multi_hot_cardinalities
from model_runtime.networks.nulls import RateArray, null_rates_to_json
from model_runtime.programs.archive import Archive, read_archive
from model_runtime.programs.graph import FORMAT, Graph
from model_runtime.programs.loaded import (
    BINDING,
    GRAPH,
    PROGRAM,
    USER_INDEX,
    WEIGHT_PREFIX,
    Binding,
    LoadedProgram,
    check_program,
    check_rows_alone,
    fields_of,
    json_tensor,
    load_program,
)
from model_runtime.programs.program import Program
from model_runtime.training.export import BLOBS, GOLDEN_TOLERANCE, NO_DIGEST, vocabularies_of, write_version
from model_runtime.training.latency import latency_card

GOLDEN_USERS, GOLDEN_ROWS = 7, 24  # of a batch that is drawn, where no logged rows are given
DEFAULT_MODEL_NAME = "program"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramConfig:
    """How to make a version of a program.

    `inputs` maps the program's names to fields of a `RowBatch` where they differ; `tasks` says in which order its
    outputs come, where it does not return a dictionary; `kind` is what they are, logits or probabilities.
    """

    surface: Surface
    model_name: str = DEFAULT_MODEL_NAME
    training_run: str = "own program"
    inputs: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = TASKS
    kind: str = "logits"
    max_unique_users: int = 2_048
    has_latency_card: bool = False


def export_program(
    archive: Archive,
    spec: FeatureSpec,
    out: Path,
    config: ProgramConfig,
    *,
    golden: RowBatch | None = None,
    calibrator: Calibrator | None = None,
    null_rate_F: RateArray | None = None,
) -> VersionId:
    """Write `out`/<surface>/ and load it once as a runtime will.

    Raises:
        InvalidField: the program reads, calls or returns what none may, or needs too much.
        GoldenMismatch: it matters to it which rows share a forward.
    """
    graph = Graph.from_json(archive.graph.to_json().encode())  # checked as a stranger's: it came from one
    calibrator = calibrator or Calibrator(len(spec.view_types_of(config.surface)))
    spec = spec.pruned(config.surface)
    golden = golden or drawn_batch(spec, config.surface)
    files = _files(graph, archive, config, calibrator)
    first = _manifest(spec, config, files, NO_DIGEST, calibrator, null_rate_F)
    loaded = _as_loaded(archive, spec, first, config, calibrator)
    check_program(loaded)
    check_rows_alone(loaded, golden)
    files[GOLDEN_FILE] = golden_content(golden, loaded.score(golden))
    manifest = _manifest(spec, config, files, digest_of(files[GOLDEN_FILE]), calibrator, null_rate_F)
    if config.has_latency_card and manifest.serving is not None:
        manifest = replace(manifest, serving=replace(manifest.serving, latency=latency_card(loaded, golden)))
    out.mkdir(parents=True, exist_ok=True)
    write_version(files, manifest, out, blobs=out / BLOBS, load=load_program)
    return manifest.version.version_id


def archive_of(module: nn.Module, spec: FeatureSpec, config: ProgramConfig) -> Archive:
    """Export a module whose `forward` takes tensors named as fields of a `RowBatch`, or as `config.inputs` maps them.

    Raises:
        InvalidField: it takes other arguments, or torch cannot export it for any number of rows and users.
    """
    batch = drawn_batch(spec.pruned(config.surface), config.surface)
    fields = {name: config.inputs.get(name, name) for name in inspect.signature(module.forward).parameters}
    for name, its_field in fields.items():
        if its_field not in RowBatch.__slots__:
            known = ", ".join(RowBatch.__slots__)
            raise InvalidField(f"forward({name})", f"is no field of a batch; known: {known}")
    rows = to_tensors(spec, config.surface, batch, device="cpu")
    reads = Graph(inputs=fields, weights={}, nodes=(), outputs=tuple(fields)[:1])
    given = fields_of(reads, rows)
    users, candidates = torch.export.Dim("users"), torch.export.Dim("rows")
    takes_users_once = USER_INDEX in fields.values()
    first = {f: users if takes_users_once and f in USER_FIELDS else candidates for f in fields.values()}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of what torch calls
        path = Path(folder) / "program.pt2"
        try:
            exported = torch.export.export(
                module.eval(),
                (),
                {name: given[its_field] for name, its_field in fields.items()},
                dynamic_shapes={name: {0: first[its_field]} for name, its_field in fields.items()},
            )
            torch.export.save(exported.run_decompositions({}), path)
        except Exception as error:  # the caller's own code, and whatever torch finds wrong with it
            raise InvalidField("module", f"cannot be exported: {error}") from error
        return read_archive(path, inputs=config.inputs)


def uncalibrated(archive: Archive, spec: FeatureSpec, config: ProgramConfig) -> LoadedProgram:
    """The program's own scores, for a calibrator to be fitted on."""
    graph, calibrator = archive.graph, Calibrator(len(spec.view_types_of(config.surface)))
    spec = spec.pruned(config.surface)
    manifest = _manifest(spec, config, _files(graph, archive, config, calibrator), NO_DIGEST, calibrator, None)
    return _as_loaded(archive, spec, manifest, config, calibrator)


def _as_loaded(
    archive: Archive, spec: FeatureSpec, manifest: Manifest, config: ProgramConfig, calibrator: Calibrator
) -> LoadedProgram:
    graph = Graph.from_json(archive.graph.to_json().encode())
    return LoadedProgram(
        manifest=manifest,
        spec=spec,
        trunk=Program(graph, archive.tensors).requires_grad_(False).eval(),
        binding=_binding(archive, config, manifest.version.trunk),
        calibrator=calibrator,
        device="cpu",
    )


def drawn_batch(spec: FeatureSpec, surface: Surface, *, seed: int = 0) -> RowBatch:
    """Rows at random that keep the feature contract: every category may come, and histories of any length."""
    draw = np.random.default_rng(seed)
    users, rows, own = GOLDEN_USERS, GOLDEN_ROWS, spec.features_of(surface)

    def categories(size: int, cardinality_C: IntArray) -> IntArray:
        return draw.integers(0, cardinality_C, (size, len(cardinality_C)))

    def numbers(size: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return draw.normal(size=(size, width)).astype(np.float32)

    def sizes(features: tuple[tuple[str, int], ...]) -> IntArray:
        return np.array([size for _, size in features], np.int64)

    length_U1 = draw.integers(0, spec.history_length + 1, (users, 1))
    is_entry_UL = np.arange(spec.history_length) < length_U1
    action_L = np.full(spec.history_length if spec.history_actions else 0, 1 + len(spec.history_actions))
    return RowBatch(
        user_categorical_UC=categories(users, sizes(spec.user_categorical)),
        user_dense_UD=numbers(users, len(spec.user_dense)),
        history_UL=is_entry_UL * draw.integers(1, spec.history_vocabulary, (users, spec.history_length)),
        user_index_N=np.sort(np.concatenate([np.arange(users), draw.integers(0, users, rows - users)])),
        view_type_N=np.arange(rows) % len(spec.view_types_of(surface)),
        candidate_categorical_NC=categories(rows, sizes(spec.candidate_categorical)),
        candidate_dense_ND=numbers(rows, len(spec.candidate_dense)),
        user_multi_hot_UM=categories(users, multi_hot_cardinalities(spec.user_multi_hot)),
        candidate_multi_hot_NM=categories(rows, multi_hot_cardinalities(spec.candidate_multi_hot)),
        history_action_UL=categories(users, action_L),
        surface_categorical_NS=categories(rows, sizes(own.candidate_categorical)),
        surface_dense_NS=numbers(rows, len(own.candidate_dense)),
    )


def _binding(archive: Archive, config: ProgramConfig, trunk: Digest) -> Binding:
    tasks = archive.output_names or config.tasks
    return Binding(surface=config.surface, trunk=trunk, tasks=tasks, kind=config.kind)


def _files(graph: Graph, archive: Archive, config: ProgramConfig, calibrator: Calibrator) -> dict[str, bytes]:
    weights = {f"{WEIGHT_PREFIX}{name}": tensor for name, tensor in sorted(archive.tensors.items())}
    trunk = _saved({**weights, GRAPH: json_tensor(graph.to_json())})
    binding = _binding(archive, config, digest_of(trunk))
    return {
        FILE_OF[Part.TRUNK]: trunk,
        FILE_OF[Part.SURFACE_EXPORT]: _saved({BINDING: json_tensor(binding.to_json())}),
        FILE_OF[Part.CALIBRATOR]: tensors_of(calibrator),
    }


def _saved(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _manifest(
    spec: FeatureSpec,
    config: ProgramConfig,
    files: Mapping[str, bytes],
    golden: Digest,
    calibrator: Calibrator,
    null_rate_F: RateArray | None,
) -> Manifest:
    trunk, surface_export = (digest_of(files[FILE_OF[part]]) for part in (Part.TRUNK, Part.SURFACE_EXPORT))
    num_knots = calibrator.num_knots
    return Manifest(
        version=ModelVersion(
            surface=config.surface,
            trunk=trunk,
            surface_export=surface_export,
            calibrator=digest_of(files[FILE_OF[Part.CALIBRATOR]]),
            feature_signature=spec.signature(config.surface),
        ),
        model_name=config.model_name,
        view_types=spec.view_types_of(config.surface),
        golden=golden,
        golden_tolerance=GOLDEN_TOLERANCE,
        training_run=config.training_run,
        fitted_on=FittedOn(trunk=trunk, surface_export=surface_export),
        serving=Serving(vocabularies=vocabularies_of(spec), precision="fp32", max_unique_users=config.max_unique_users),
        config={
            "features": spec.to_json(),
            PROGRAM: {"format": FORMAT},
            **({CALIBRATOR: {"num_knots": num_knots}} if num_knots else {}),
            **({} if null_rate_F is None else {NULL_RATES: null_rates_to_json(spec, null_rate_F)}),
        },
    )
