"""The manifest of an exported model version: what its files are, and what they must answer.

An artifact is a folder with `manifest.json` and three safetensors files. The same bytes have the same digest,
so exports that share a trunk name the same trunk.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from control_plane.domain.errors import CalibratorMismatch, InvalidManifest, UnsafeArtifact
from control_plane.domain.model_version import (
    Digest,
    ModelVersion,
    Part,
    Surface,
    ViewType,
    check_digest,
    check_name,
)

FORMAT = "surefoot/1"
MANIFEST_FILE = "manifest.json"
FILE_OF = {
    Part.TRUNK: "trunk.safetensors",
    Part.SURFACE_EXPORT: "surface.safetensors",
    Part.CALIBRATOR: "calibrator.safetensors",
}
FITTED_ON = "calibrator_fitted_on"
SERVING = "serving"
PRECISIONS = ("fp32", "tf32", "bf16", "int8_rows")
GOLDEN_FILE = "golden.safetensors"  # inputs and the scores they must give
PICKLE_OR_ZIP = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how such files begin
WORTH_COMPILING = 1.1  # times faster: below it the compiler's time at each load is not won back
MAX_TEXT = 200  # characters of a name: pages and databases show it on one line
MAX_COUNT = 1 << 31  # of users, rows or milliseconds: beyond it lies a typing error
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedOn:
    """The weights whose scores a calibrator was fitted on; to those of others it means nothing."""

    trunk: Digest
    surface_export: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyCard:
    """How long one forward took where the version was exported: `rows` candidates of `users` users."""

    device: str
    threads: int
    users: int
    rows: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileCard:
    """Whether a compiled forward was faster where the version was exported: medians over the same batches, in turn.

    `compiled_ms` is None where it could not be compiled, or gave other scores.
    """

    device: str
    threads: int
    users: int
    rows: int
    eager_ms: float
    compiled_ms: float | None
    compile_seconds: float

    @property
    def is_faster(self) -> bool:
        return self.compiled_ms is not None and self.eager_ms >= WORTH_COMPILING * self.compiled_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What a runtime may count on: no part of a version, since none of it changes a score beyond its tolerance.

    `vocabularies` is the digest of all features' names and sizes; `precision` is the profile to serve in (golden
    scores are those of fp32, which serves where the profile changes them too much); `max_unique_users` is the most
    users that one forward may hold.
    """

    vocabularies: Digest
    precision: str
    max_unique_users: int
    latency: LatencyCard | None = None
    compiled: CompileCard | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What the control plane needs to know of an artifact; `config` is the network's own, opaque here.

    `fitted_on` ties the calibrator to its weights, `serving` says what a runtime may count on; manifests of before
    do not tell.
    """

    version: ModelVersion
    model_name: str
    view_types: tuple[ViewType, ...]
    golden: Digest
    golden_tolerance: float
    training_run: str
    config: Mapping[str, object]
    fitted_on: FittedOn | None = None
    serving: Serving | None = None

    def digest_of_file(self, file_name: str) -> Digest:
        for part, name in FILE_OF.items():
            if name == file_name:
                return self.version.digest_of_part(part)
        return self.golden

    def to_json(self) -> str:
        told = {FITTED_ON: self.fitted_on, SERVING: self.serving}
        return json.dumps(
            {
                **{name: asdict(each) for name, each in told.items() if each is not None},
                "format": FORMAT,
                "model_name": self.model_name,
                "surface": self.version.surface,
                "view_types": list(self.view_types),
                "digests": {part.value: self.version.digest_of_part(part) for part in Part},
                "golden": self.golden,
                "golden_tolerance": self.golden_tolerance,
                "training_run": self.training_run,
                "config": self.config,
            },
            indent=2,
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Parse and check; `InvalidManifest` names the field."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidManifest("manifest", f"is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidManifest("manifest", "must be a JSON object")
        if value.get("format") != FORMAT:
            raise InvalidManifest("format", f"must be {FORMAT!r}, not {value.get('format')!r}")
        digests = value.get("digests")
        if not isinstance(digests, dict):
            raise InvalidManifest("digests", "must map parts to digests")
        parts = {part.value: check_digest(f"digests.{part}", digests.get(part.value, "")) for part in Part}
        tolerance = value.get("golden_tolerance")
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance <= 0.01:
            raise InvalidManifest("golden_tolerance", f"must be above 0 and at most 0.01, not {tolerance!r}")
        config = value.get("config")
        if not isinstance(config, dict):
            raise InvalidManifest("config", "must be an object")
        surface = Surface(check_name("surface", value.get("surface", "")))
        return cls(
            version=ModelVersion(surface=surface, **parts),
            model_name=_text(value, "model_name"),
            view_types=_view_types(value.get("view_types")),
            golden=check_digest("golden", value.get("golden", "")),
            golden_tolerance=float(tolerance),
            training_run=_text(value, "training_run"),
            config=config,
            fitted_on=_fitted_on(value.get(FITTED_ON)),
            serving=_serving(value.get(SERVING)),
        )


def check_calibrator(manifest: Manifest) -> None:
    """Refuse a calibrator beside weights that it was not fitted on; `CalibratorMismatch` names both."""
    if manifest.fitted_on is None:
        return
    version = manifest.version
    ties = ((Part.TRUNK, manifest.fitted_on.trunk), (Part.SURFACE_EXPORT, manifest.fitted_on.surface_export))
    for part, fitted_on in ties:
        if fitted_on != (found := version.digest_of_part(part)):
            raise CalibratorMismatch(version.version_id, part, fitted_on=fitted_on, found=found)


def check_safetensors(path: str, head: bytes, total_bytes: int) -> None:
    """Refuse bytes that are not a whole safetensors file. `head` is at least the length field and the header.

    Raises:
        UnsafeArtifact: a pickle or zip, a header that does not parse, or fewer bytes than it promises.
    """
    # A header of 640 bytes starts as a pickle does, so only what does not go on with a header is called one.
    if head[:2] in PICKLE_OR_ZIP and head[8:9] != b"{":
        raise UnsafeArtifact(path, "is a pickle or a zip, not safetensors; a pickle can run code and is never loaded")
    if len(head) < 8:
        raise UnsafeArtifact(path, f"is truncated: {total_bytes} bytes")
    header_bytes = int.from_bytes(head[:8], "little")
    if not 2 <= header_bytes <= MAX_HEADER_BYTES:
        raise UnsafeArtifact(path, "is not safetensors: its header length makes no sense")
    if total_bytes < 8 + header_bytes or len(head) < 8 + header_bytes:
        raise UnsafeArtifact(path, f"is truncated: {total_bytes} bytes, its header alone needs {8 + header_bytes}")
    try:
        header = json.loads(head[8 : 8 + header_bytes])
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        raise UnsafeArtifact(path, "is not safetensors: its header does not parse") from None
    promised = 8 + header_bytes + max(ends, default=0)
    if total_bytes != promised:
        raise UnsafeArtifact(path, f"has {total_bytes} bytes where its header promises {promised}")


def _text(value: Mapping[str, object], field: str, *, path: str | None = None) -> str:
    found = value.get(field)
    if not isinstance(found, str) or not found.isprintable() or not 0 < len(found) <= MAX_TEXT:
        raise InvalidManifest(path or field, f"must be 1 to {MAX_TEXT} printable characters, not {str(found)[:100]!r}")
    return found


def _fitted_on(value: object) -> FittedOn | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidManifest(FITTED_ON, "must map trunk and surface_export to digests")
    found = {
        part.value: check_digest(f"{FITTED_ON}.{part}", value.get(part.value, ""))
        for part in (Part.TRUNK, Part.SURFACE_EXPORT)
    }
    return FittedOn(**found)


def _serving(value: object) -> Serving | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidManifest(SERVING, "must be an object")
    if value.get("precision") not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InvalidManifest(f"{SERVING}.precision", f"must be one of {known}, not {value.get('precision')!r}")
    return Serving(
        vocabularies=check_digest(f"{SERVING}.vocabularies", value.get("vocabularies", "")),
        precision=value["precision"],
        max_unique_users=_count(f"{SERVING}.max_unique_users", value.get("max_unique_users")),
        latency=_latency(value.get("latency")),
        compiled=_compiled(value.get("compiled")),
    )


def _latency(value: object) -> LatencyCard | None:
    if value is None:
        return None
    path = f"{SERVING}.latency"
    if not isinstance(value, dict):
        raise InvalidManifest(path, "must be an object")
    return LatencyCard(
        device=_text(value, "device", path=f"{path}.device"),
        threads=_count(f"{path}.threads", value.get("threads")),
        users=_count(f"{path}.users", value.get("users")),
        rows=_count(f"{path}.rows", value.get("rows")),
        p50_ms=_milliseconds(f"{path}.p50_ms", value.get("p50_ms")),
        p99_ms=_milliseconds(f"{path}.p99_ms", value.get("p99_ms")),
    )


def _compiled(value: object) -> CompileCard | None:
    if value is None:
        return None
    path = f"{SERVING}.compiled"
    if not isinstance(value, dict):
        raise InvalidManifest(path, "must be an object")
    compiled_ms = value.get("compiled_ms")
    return CompileCard(
        device=_text(value, "device", path=f"{path}.device"),
        threads=_count(f"{path}.threads", value.get("threads")),
        users=_count(f"{path}.users", value.get("users")),
        rows=_count(f"{path}.rows", value.get("rows")),
        eager_ms=_milliseconds(f"{path}.eager_ms", value.get("eager_ms")),
        compiled_ms=None if compiled_ms is None else _milliseconds(f"{path}.compiled_ms", compiled_ms),
        compile_seconds=_milliseconds(f"{path}.compile_seconds", value.get("compile_seconds")),
    )


def _count(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        raise InvalidManifest(field, f"must be a whole number from 1 to {MAX_COUNT}, not {value!r}")
    return value


def _milliseconds(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_COUNT:
        raise InvalidManifest(field, f"must be milliseconds, not {value!r}")
    return float(value)


def _view_types(value: object) -> tuple[ViewType, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidManifest("view_types", "must be a non-empty list of names")
    if len(set(map(str, value))) != len(value):
        raise InvalidManifest("view_types", "must not repeat")
    return tuple(ViewType(check_name(f"view_types[{index}]", name)) for index, name in enumerate(value))
