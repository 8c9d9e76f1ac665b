"""From an artifact folder to a model that scores: every byte is verified before it is believed.

Shapes: N candidate rows, T tasks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from control_plane.domain.errors import DigestMismatch, GoldenMismatch, InvalidField, InvalidManifest, UnsafeArtifact
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, MANIFEST_FILE, Manifest, check_safetensors
from control_plane.domain.model_version import Digest, Part, VersionId, digest_of
from model_runtime.networks.calibration import MAX_KNOTS, Calibrator
from model_runtime.networks.engagement import (
    CLICK,
    TASKS,
    HeadConfig,
    RowTensors,
    Shared,
    SurfaceHead,
    Trunk,
    TrunkConfig,
    UserSide,
    read_config,
    to_tensors,
)
from model_runtime.networks.features import OPTIONAL_FIELDS, FeatureSpec, FloatArray, RowBatch, check_batch
from model_runtime.networks.nulls import RateArray, null_rates_from_json
from model_runtime.precision import FP32, ParityCard, computing_as
from model_runtime.tensor_files import read_tensors as read_tensors  # they are read from here, too
from model_runtime.tensor_files import tensors_of as tensors_of

if TYPE_CHECKING:
    from model_runtime.versions import Version

CPU_PASS_ROWS = 2_048  # rows read at once on a CPU: their activations stay in its cache, about 1.4× all at once
CPU_PASS_USERS = 512  # the same for users, whose histories take more room
OBSERVED_ROWS = 64  # rows of a batch whose gates an observer sees: they cost next to nothing beside a forward
CALIBRATOR = "calibrator"  # of a manifest's config: how many knots its isotonic part has, none where it is absent
NULL_RATES = "null_rates"  # of a manifest's config: no part of any digest, since it changes no score
INPUT_PREFIX, SCORE_PREFIX = "input.", "score."  # of the tensors in a golden file

Replay = Callable[[RowBatch], dict[str, FloatArray] | None]
Observe = Callable[[RowBatch, FloatArray], None]  # the batch as the network read it, and the gates of some of its rows


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedVersion:
    """One surface's version, ready to score; threads may share it.

    `null_rate_F` is how often each feature was null in training, see `networks.nulls`; older exports do not tell.
    `precision` is the profile that it is in, `parity` how that differs from fp32, `refused` why it is in no other one.
    `replay` answers for batches of some sizes what `score` would, in less time; see `model_runtime.fixed_forwards`.
    """

    manifest: Manifest
    spec: FeatureSpec
    trunk: Trunk
    head: SurfaceHead
    calibrator: Calibrator
    device: str
    null_rate_F: RateArray | None = None
    precision: str = FP32
    parity: ParityCard | None = None
    refused: str = ""
    replay: Replay | None = None

    @property
    def version_id(self) -> VersionId:
        return self.manifest.version.version_id

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All that holds weights."""
        return (self.trunk, self.head, self.calibrator)

    def score(self, batch: RowBatch, *, observe: Observe | None = None) -> dict[str, FloatArray]:
        """Probabilities by task, each of shape (N,); the click's are calibrated by view type.

        `observe` sees what came in and what the gates made of it, in the middle of the forward.

        Raises:
            InvalidField: the batch breaks the feature contract.
        """
        with torch.inference_mode(), computing_as(self.precision, self.device):
            if observe is None and self.replay is not None and (found := self.replay(batch)) is not None:
                return found
            rows, see_gates = self._read(batch, observe)
            user_side = self.encode_users(rows)
            logits = []
            for part in self._row_parts(rows):
                shared = self.trunk.read_rows(user_side, part)
                if see_gates is not None:
                    see_gates(self._some_gates(shared))
                    see_gates = None  # the first part tells enough
                logits.append(self.head(shared, part.own))
            return self._probabilities(torch.cat(logits), rows)

    def activations(self, batch: RowBatch, *, observe: Observe | None = None) -> "Activations":
        """What the trunk knows of each row, for `score_shared` of any version that `reads_activations_of` this one.

        Raises:
            InvalidField: the batch breaks the feature contract.
        """
        with torch.inference_mode(), computing_as(self.precision, self.device):
            rows, see_gates = self._read(batch, observe)
            user_side = self.encode_users(rows)
            parts = [self.trunk.read_rows(user_side, part) for part in self._row_parts(rows)]
            shared = parts[0] if len(parts) == 1 else Shared(*(torch.cat(each) for each in zip(*parts, strict=True)))
            if see_gates is not None:
                see_gates(self._some_gates(shared))
        return Activations(shared, rows)

    def score_shared(self, shared: Shared, rows: RowTensors) -> dict[str, FloatArray]:
        """The same as `score`, from the trunk's activations: what it costs is the head and the calibrator alone."""
        with torch.inference_mode(), computing_as(self.precision, self.device):
            size = len(shared.crossed_NX)
            if size <= (step := self._step(CPU_PASS_ROWS, size)):
                return self._probabilities(self.head(shared, rows.own), rows)
            logits = [self.head(shared.rows(part), rows.rows(part).own) for part in _slices(size, step)]
            return self._probabilities(torch.cat(logits), rows)

    def reads_activations_of(self, other: "Version") -> bool:
        """Whether this version may score the other's activations: one trunk, one surface, the same inputs."""
        mine, its = self.manifest.version, other.manifest.version
        is_same = (mine.surface, mine.trunk, mine.feature_signature) == (its.surface, its.trunk, its.feature_signature)
        is_alike = (self.spec, self.device, self.precision) == (other.spec, other.device, other.precision)
        return is_same and is_alike

    def encode_users(self, rows: RowTensors) -> UserSide:
        """All that depends on users alone, each once, in passes that stay in a processor's cache."""
        size = len(rows.history_UL)
        if size <= (step := self._step(CPU_PASS_USERS, size)):
            return self.trunk.encode_users(rows)
        return UserSide.cat([self.trunk.encode_users(rows.users(part)) for part in _slices(size, step)])

    def _read(self, batch: RowBatch, observe: Observe | None) -> tuple[RowTensors, Callable[[FloatArray], None] | None]:
        surface = self.manifest.version.surface
        checked = check_batch(self.spec, surface, batch)
        rows = to_tensors(self.spec, surface, checked, device=self.device)
        return rows, None if observe is None else partial(observe, checked)

    def _row_parts(self, rows: RowTensors) -> list[RowTensors]:
        size = len(rows.user_index_N)
        step = self._step(CPU_PASS_ROWS, size)
        return [rows] if size <= step else [rows.rows(part) for part in _slices(size, step)]

    def _probabilities(self, logit_NT: Tensor, rows: RowTensors) -> dict[str, FloatArray]:
        logit_NT = logit_NT.float()
        logit_NT[:, CLICK] = self.calibrator(logit_NT[:, CLICK], rows.view_type_N)
        probability_TN = logit_NT.sigmoid().T.contiguous().cpu().numpy()
        return dict(zip(TASKS, probability_TN, strict=True))

    def _some_gates(self, shared: Shared) -> FloatArray:
        some_NX = shared.crossed_NX[:: 1 + len(shared.crossed_NX) // OBSERVED_ROWS]
        gates: FloatArray = self.head.gates(some_NX).float().cpu().numpy()
        return gates

    def _step(self, on_cpu: int, whole: int) -> int:
        """How many rows or users are read at once."""
        return on_cpu if self.device == "cpu" else whole


class Activations(NamedTuple):
    """The trunk's part of a score, and the rows it is of."""

    shared: Shared
    rows: RowTensors


Prepare = Callable[[LoadedVersion, RowBatch], LoadedVersion]  # the version as verified, and its golden rows


def load_version(
    folder: Path,
    *,
    device: str = "cpu",
    trunks: dict[Digest, nn.Module] | None = None,
    prepare: Prepare = lambda verified, golden: verified,
) -> LoadedVersion:
    """Verify and load one version; `trunks` holds those already loaded, by digest, and gains this one's.

    `prepare` makes of the verified version and its golden rows what is to serve.

    Raises:
        InvalidManifest: the manifest is missing, malformed, or names a network that its files are not.
        UnsafeArtifact: a file is missing, truncated, no safetensors, or holds other tensors than the network's.
        DigestMismatch: a file or the feature contract is not what the manifest promises.
        GoldenMismatch: the loaded model does not give the recorded scores.
    """
    manifest = read_manifest(folder)
    content = {name: verified(folder / name, manifest) for name in (*FILE_OF.values(), GOLDEN_FILE)}
    spec, trunk_config, head_config = _configs(manifest)
    null_rate_F = read_null_rates(manifest, spec)
    trunk = _load_trunk(folder, content, manifest, spec, trunk_config, device=device, trunks=trunks)
    head = build(
        lambda: SurfaceHead(
            trunk.crossed_width,
            trunk_config.experts,
            head_config,
            spec.features_of(manifest.version.surface),
        ),
        content,
        folder / FILE_OF[Part.SURFACE_EXPORT],
        device,
    )
    num_knots = read_num_knots(manifest.config.get(CALIBRATOR))
    calibrator = build(
        lambda: Calibrator(len(manifest.view_types), num_knots), content, folder / FILE_OF[Part.CALIBRATOR], device
    )
    loaded = LoadedVersion(
        manifest=manifest,
        spec=spec,
        trunk=trunk,
        head=head,
        calibrator=calibrator,
        device=device,
        null_rate_F=null_rate_F,
    )
    golden = check_golden(loaded, content[GOLDEN_FILE], folder / GOLDEN_FILE)
    if trunks is not None:
        trunks[manifest.version.trunk] = trunk
    return prepare(loaded, golden)


def read_manifest(folder: Path) -> Manifest:
    try:
        return Manifest.from_json((folder / MANIFEST_FILE).read_bytes())
    except OSError as error:
        raise InvalidManifest("manifest", f"cannot be read: {folder / MANIFEST_FILE}: {error.strerror}") from None


def fill(module: nn.Module, content: bytes, path: Path) -> None:
    """Give a module the weights of a file that holds exactly its tensors.

    Raises:
        UnsafeArtifact: a tensor is missing, foreign, or of another shape or type.
    """
    tensors, expected = read_tensors(content, path), module.state_dict()
    for name in sorted(tensors.keys() - expected.keys()):
        raise UnsafeArtifact(str(path), f"holds the foreign tensor {name!r}")
    for name, place in expected.items():
        found = tensors.get(name)
        if found is None:
            raise UnsafeArtifact(str(path), f"lacks the tensor {name!r}")
        if found.shape != place.shape or found.dtype != place.dtype:
            is_, wants = (f"{tuple(each.shape)} {each.dtype}" for each in (found, place))
            raise UnsafeArtifact(str(path), f"holds {name!r} as {is_}, its config makes it {wants}")
    module.load_state_dict(tensors)


def golden_content(batch: RowBatch, scores: Mapping[str, FloatArray]) -> bytes:
    """The file of a golden check: a batch, and the scores it must get."""
    inputs = {INPUT_PREFIX + name: torch.tensor(getattr(batch, name)) for name in batch.given()}
    outputs = {SCORE_PREFIX + name: torch.tensor(score_N) for name, score_N in scores.items()}
    return safetensors.torch.save({**inputs, **outputs})


def golden_batch(tensors: Mapping[str, Tensor], path: Path) -> RowBatch:
    """The batch of a golden file."""
    names = [name for name in RowBatch.__slots__ if INPUT_PREFIX + name in tensors]
    missing = [name for name in RowBatch.__slots__ if name not in names and name not in OPTIONAL_FIELDS]
    if missing:
        raise UnsafeArtifact(str(path), f"lacks the tensor {INPUT_PREFIX + missing[0]!r}")
    return RowBatch(**{name: tensors[INPUT_PREFIX + name].numpy() for name in names})


def _slices(size: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, size, step)]


def verified(path: Path, manifest: Manifest) -> bytes:
    """The file's bytes, read once: what is hashed is what is parsed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnsafeArtifact(str(path), f"cannot be read: {error.strerror}") from None
    check_safetensors(str(path), content, len(content))
    expected, found = manifest.digest_of_file(path.name), digest_of(content)
    if found != expected:
        raise DigestMismatch(str(path), expected=expected, found=found)
    return content


def _configs(manifest: Manifest) -> tuple[FeatureSpec, TrunkConfig, HeadConfig]:
    """The network's own part of the manifest, checked against the part that the control plane reads."""
    spec = read_spec(manifest)
    try:
        trunk = read_config(TrunkConfig, "trunk", manifest.config.get("trunk"))
        head = read_config(HeadConfig, "head", manifest.config.get("head"))
    except InvalidField as error:
        raise InvalidManifest(f"config.{error.field}", error.rule) from None
    return spec, trunk, head


def read_spec(manifest: Manifest) -> FeatureSpec:
    """What the version reads, as its digests and view types promise it."""
    try:
        spec = FeatureSpec.from_json(manifest.config.get("features"))
    except InvalidField as error:
        raise InvalidManifest(f"config.{error.field}", error.rule) from None
    surface = manifest.version.surface
    if spec.view_types.get(surface) != manifest.view_types:
        raise InvalidManifest("view_types", f"must be those of {surface} in config.features.view_types")
    signature = spec.signature(surface)
    if signature != manifest.version.feature_signature:
        expected = manifest.version.feature_signature
        raise DigestMismatch("config.features", expected=expected, found=signature)
    return spec


def read_num_knots(value: object) -> int:
    """Of a calibrator's config; 0 where there is none."""
    if value is None:
        return 0
    found = value.get("num_knots") if isinstance(value, dict) else None
    if isinstance(found, bool) or not isinstance(found, int) or not 2 <= found <= MAX_KNOTS:
        raise InvalidManifest("config.calibrator.num_knots", f"must be a whole number from 2 to {MAX_KNOTS}")
    return found


def read_null_rates(manifest: Manifest, spec: FeatureSpec) -> RateArray | None:
    if NULL_RATES not in manifest.config:
        return None
    try:
        return null_rates_from_json(spec, manifest.config[NULL_RATES])
    except InvalidField as error:
        raise InvalidManifest(f"config.{error.field}", error.rule) from None


def _load_trunk(
    folder: Path,
    content: Mapping[str, bytes],
    manifest: Manifest,
    spec: FeatureSpec,
    config: TrunkConfig,
    *,
    device: str,
    trunks: Mapping[Digest, nn.Module] | None,
) -> Trunk:
    resident = (trunks or {}).get(manifest.version.trunk)
    if isinstance(resident, Trunk) and resident.spec == spec.pruned(None) and resident.config == config:
        return resident
    return build(lambda: Trunk(spec, config), content, folder / FILE_OF[Part.TRUNK], device)


Module = TypeVar("Module", bound=nn.Module)


def build(make: Callable[[], Module], content: Mapping[str, bytes], path: Path, device: str) -> Module:
    # Sizes first, on a device without memory: a config must not make us allocate what its file does not hold.
    with torch.device("meta"):
        promised = sum(each.numel() * each.element_size() for each in make().state_dict().values())
    found = len(content[path.name])
    if promised > found:
        raise UnsafeArtifact(str(path), f"holds {found} bytes, its config needs {promised}")
    module = make()
    fill(module, content[path.name], path)
    return module.requires_grad_(False).eval().to(device)


def check_golden(loaded: "Version", content: bytes, path: Path) -> RowBatch:
    tensors = read_tensors(content, path)
    batch = golden_batch(tensors, path)
    lacking = [task for task in TASKS if SCORE_PREFIX + task not in tensors]
    if lacking:
        raise UnsafeArtifact(str(path), f"lacks the tensor {SCORE_PREFIX + lacking[0]!r}")
    scores = loaded.score(batch)
    worst = max(_worst(scores[task], tensors[SCORE_PREFIX + task].numpy()) for task in TASKS)
    if not worst <= loaded.manifest.golden_tolerance:
        raise GoldenMismatch(loaded.version_id, worst=worst, tolerance=loaded.manifest.golden_tolerance)
    return batch


def _worst(score_N: FloatArray, expected_N: NDArray[np.float32]) -> float:
    """The largest difference; NaN, which no tolerance covers, where either is NaN or the shapes differ."""
    return float(np.abs(score_N - expected_N).max()) if score_N.shape == expected_N.shape else float("nan")
