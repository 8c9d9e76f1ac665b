"""Versions that a person loads into a runtime by hand, from a folder of exports, to score or shadow with.

What answers traffic is the control plane's to say: a version loaded here is scored for whom names it, and in the
shadow if that was asked for. It stays until it is unloaded, or the process ends.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from control_plane.domain.errors import ControlPlaneError, InvalidField, UnknownName
from control_plane.domain.manifest import MANIFEST_FILE
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import FULL_TRAFFIC_BP
from model_runtime.checkpoints import read_manifest

DEPTHS = ("*", "*/*", "*/*/*")  # exports stand as <run>/<surface>/, or one folder above or beneath
MAX_NAMED = 100  # versions of one call


class LoadFailed(ControlPlaneError):
    """A version was asked for by hand and does not load."""

    def __init__(self, reasons: Mapping[VersionId, str]) -> None:
        super().__init__("; ".join(f"version {version_id}: {reason}" for version_id, reason in reasons.items()))


class NotUnloaded(ControlPlaneError):
    """A version that a split names stays."""

    def __init__(self, version_id: VersionId) -> None:
        super().__init__(f"version {version_id} was not loaded by hand: the control plane says what serves")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """Which versions a call names, all of the surface's where none, and what share of users they shadow."""

    versions: tuple[VersionId, ...] = ()
    shadow_sample_bp: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    surface: Surface
    folder: Path


def exports(folder: Path) -> dict[VersionId, Export]:
    """Every export in the folder whose manifest can be read."""
    found: dict[VersionId, Export] = {}
    for path in sorted(path for depth in DEPTHS for path in folder.glob(f"{depth}/{MANIFEST_FILE}")):
        try:
            version = read_manifest(path.parent).version
        except ControlPlaneError:
            continue  # whoever asks for it by name is told that it is not here
        found.setdefault(version.version_id, Export(surface=version.surface, folder=path.parent))
    return found


def choose(found: Mapping[VersionId, Export], surface: Surface, wish: Wish) -> dict[VersionId, Export]:
    """The wanted exports of a surface; `UnknownName` where one is not there."""
    of_surface = {version_id: export for version_id, export in found.items() if export.surface == surface}
    if not of_surface:
        raise UnknownName("surface in the repository", surface, known=sorted({e.surface for e in found.values()}))
    for version_id in wish.versions:
        if version_id not in of_surface:
            raise UnknownName(f"version of {surface} in the repository", version_id, known=sorted(of_surface))
    return {version_id: of_surface[version_id] for version_id in wish.versions or of_surface}


def read_wish(body: bytes) -> Wish:
    """Read a load's or an unload's parameters, or the model configuration among them, whichever names versions.

    Raises:
        InvalidField: names what is malformed.
    """
    parameters = _object("parameters", _object("body", _json("body", body or b"{}")).get("parameters", {}))
    config = parameters.get("config", "{}")
    if not isinstance(config, str):
        raise InvalidField("parameters.config", "must be a JSON object in a string")
    given = {**_object("parameters.config", _json("parameters.config", config.encode())), **parameters}
    for name in given:
        if name.startswith("file:"):
            raise InvalidField(f"parameters.{name[:40]}", "is refused: versions come from the repository alone")
    return Wish(versions=_versions(given), shadow_sample_bp=_sample(given.get("shadow_sample_bp", 0)))


def _versions(given: Mapping[str, object]) -> tuple[VersionId, ...]:
    named = [given["version"]] if "version" in given else given.get("versions", [])
    if not isinstance(named, list) or len(named) > MAX_NAMED or not all(isinstance(name, str) for name in named):
        raise InvalidField("parameters.versions", f"must be a list of at most {MAX_NAMED} version ids")
    return tuple(VersionId(name) for name in named)


def _sample(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= FULL_TRAFFIC_BP:
        raise InvalidField("parameters.shadow_sample_bp", f"must be 0 to {FULL_TRAFFIC_BP}, not {value!r}")
    return value


def _json(field: str, content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidField(field, f"is not JSON: {error}") from None


def _object(field: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidField(field, "must be a JSON object")
    return value
