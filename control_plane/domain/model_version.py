"""What one surface serves: an immutable tuple of digests."""

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from control_plane.domain.errors import InvalidManifest

Surface = NewType("Surface", str)
ViewType = NewType("ViewType", str)
Digest = NewType("Digest", str)  # "sha256:" and 64 hex digits
VersionId = NewType("VersionId", str)  # the first 16 hex digits of a version's own digest

DIGEST_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Part(StrEnum):
    """The parts of a version that can be good or bad on their own."""

    TRUNK = "trunk"
    SURFACE_EXPORT = "surface_export"
    CALIBRATOR = "calibrator"
    FEATURE_SIGNATURE = "feature_signature"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One joint training run's trunk, one surface's export of it, its calibrator and its input contract."""

    surface: Surface
    trunk: Digest
    surface_export: Digest
    calibrator: Digest
    feature_signature: Digest

    def __post_init__(self) -> None:
        check_name("surface", self.surface)
        for part in Part:
            check_digest(part, getattr(self, part))

    @property
    def digest(self) -> Digest:
        """Identity of the tuple: equal parts on one surface are one version."""
        tuple_json = json.dumps([self.surface, *(getattr(self, part) for part in Part)], separators=(",", ":"))
        return digest_of(tuple_json.encode())

    @property
    def version_id(self) -> VersionId:
        return VersionId(self.digest.removeprefix("sha256:")[:16])

    def digest_of_part(self, part: Part) -> Digest:
        return Digest(getattr(self, part))

    def parts_unlike(self, other: "ModelVersion") -> tuple[Part, ...]:
        """What a change from the other to this one changes; the calibrator alone where weights and inputs stay."""
        return tuple(part for part in Part if self.digest_of_part(part) != other.digest_of_part(part))


def digest_of(content: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def check_digest(field: str, value: str) -> Digest:
    if not isinstance(value, str) or not DIGEST_PATTERN.fullmatch(value):
        raise InvalidManifest(field, f"must be 'sha256:' and 64 hex digits, not {value!r}")
    return Digest(value)


def check_name(field: str, value: str) -> str:
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        raise InvalidManifest(field, f"must be lower-case letters, digits and '_', not {value!r}")
    return value
