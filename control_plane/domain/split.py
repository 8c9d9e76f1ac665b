"""Which arm answers a user: a pure function of the user key and the surface's split.

Contract for other languages (`tests/domain/split_vectors.json` holds the vectors):

    salt64  = first 8 bytes of SHA-256(salt as UTF-8), big-endian
    h       = mix64(user_key XOR salt64)        mix64 is the finaliser of SplitMix64
    slot    = ((h >> 32) * 10000) >> 32         0 … 9999
    arm     = candidate if slot < candidate_bp else stable

The candidate's slots start at 0 and end at its weight, so growth never moves a user out of it.
All functions on keys take an `int` or a NumPy `uint64` array of any shape and answer in kind.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NewType, overload

from control_plane.domain.errors import InvalidSplit
from control_plane.domain.model_version import Surface, VersionId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    KeyArray = NDArray[np.uint64]

Keys = Any  # int or KeyArray: NumPy's stubs call `uint64 array >> int` signed, so only the overloads are typed

UserKey = NewType("UserKey", int)  # keyed 64-bit hash of a user id; the only form of a user that is stored

FULL_TRAFFIC_BP = 10_000  # basis points: 1 bp is 0.01 % of a surface's traffic
NUM_BUCKETS = 256  # K of the jackknife: enough for its t quantiles, few enough to keep sums small
BUCKET_SALT = "surefoot/buckets/1"  # never a rollout's salt: both arms must live in every bucket
MASK64 = (1 << 64) - 1
MASK32 = (1 << 32) - 1


class Arm(IntEnum):
    """Index of an arm wherever moments are stored by arm."""

    STABLE = 0
    CANDIDATE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A snapshot of what serves on one surface; runtimes hold it in memory.

    `unwatched_seconds_left` is how long the candidate may go on serving without another completed
    guardrail check; the holder counts it down on its own monotonic clock. None where no candidate serves.
    """

    surface: Surface
    generation: int
    salt: str
    stable: VersionId
    candidate: VersionId | None = None
    candidate_bp: int = 0
    shadow: VersionId | None = None
    shadow_sample_bp: int = 0
    unwatched_seconds_left: float | None = None

    def __post_init__(self) -> None:
        if self.generation < 1:
            raise InvalidSplit("generation", f"must be 1 or more, not {self.generation}")
        if not 0 <= self.candidate_bp <= FULL_TRAFFIC_BP:
            raise InvalidSplit("candidate_bp", f"must be 0 to {FULL_TRAFFIC_BP}, not {self.candidate_bp}")
        if self.candidate_bp and self.candidate is None:
            raise InvalidSplit("candidate", f"is missing, yet has {self.candidate_bp} bp of the traffic")
        if not 0 <= self.shadow_sample_bp <= FULL_TRAFFIC_BP:
            raise InvalidSplit("shadow_sample_bp", f"must be 0 to {FULL_TRAFFIC_BP}, not {self.shadow_sample_bp}")
        left = self.unwatched_seconds_left
        if left is not None and not (math.isfinite(left) and left >= 0):
            raise InvalidSplit("unwatched_seconds_left", f"must be 0 or more seconds, not {left}")

    @property
    def is_home(self) -> bool:
        """Whether the holder took the candidate's weight away by itself: the control plane orders no such split."""
        return self.candidate is not None and self.candidate_bp == 0

    @property
    def weights_bp(self) -> dict[VersionId, int]:
        """Weights by version, summing to 10 000."""
        weights = {self.stable: FULL_TRAFFIC_BP - self.candidate_bp}
        if self.candidate is not None:
            weights[self.candidate] = self.candidate_bp
        return weights

    def version_of(self, arm: Arm) -> VersionId:
        if arm is Arm.CANDIDATE and self.candidate is not None:
            return self.candidate
        return self.stable

    def arm_of(self, user_key: UserKey) -> Arm:
        return Arm(int(slot_of(user_key, self.salt) < self.candidate_bp))

    def to_json(self) -> dict[str, object]:
        return {
            "surface": self.surface,
            "generation": self.generation,
            "salt": self.salt,
            "stable": self.stable,
            "candidate": self.candidate,
            "weights_bp": self.weights_bp,
            "shadow": self.shadow,
            "shadow_sample_bp": self.shadow_sample_bp,
            "unwatched_seconds_left": self.unwatched_seconds_left,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "Split":
        """Read what `to_json` wrote; weights that do not sum to 10 000 are refused."""
        stable = _text(value, "stable")
        candidate = None if value.get("candidate") is None else _text(value, "candidate")
        weights = _weights(value, allowed={stable, candidate} - {None})
        return cls(
            surface=Surface(_text(value, "surface")),
            generation=_integer(value, "generation"),
            salt=_text(value, "salt"),
            stable=VersionId(stable),
            candidate=None if candidate is None else VersionId(candidate),
            candidate_bp=0 if candidate is None else weights.get(candidate, 0),
            shadow=None if value.get("shadow") is None else VersionId(_text(value, "shadow")),
            shadow_sample_bp=_integer(value, "shadow_sample_bp"),
            unwatched_seconds_left=_seconds(value, "unwatched_seconds_left"),
        )


def user_key(user_id: str, *, secret: bytes) -> UserKey:
    """Keyed 64-bit hash of a user id (BLAKE2b, 16 to 64 secret bytes), taken once at the edge."""
    if not 16 <= len(secret) <= 64:
        raise ValueError(f"the secret must have 16 to 64 bytes, not {len(secret)}")
    return UserKey(int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8, key=secret).digest(), "big"))


@lru_cache(maxsize=4096)
def salt64(salt: str) -> int:
    return int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big")


@overload
def mix64(key: int) -> int: ...
@overload
def mix64(key: "KeyArray") -> "KeyArray": ...
def mix64(key: Keys) -> Keys:
    """SplitMix64's finaliser: every bit of the key reaches every bit of the answer (Steele et al. 2014)."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB & MASK64
    return key ^ (key >> 31)


@overload
def slot_of(key: int, salt: str) -> int: ...
@overload
def slot_of(key: "KeyArray", salt: str) -> "KeyArray": ...
def slot_of(key: Keys, salt: str) -> Keys:
    """Slot 0 … 9999 of a user key under a rollout's salt."""
    return (mix64(key ^ salt64(salt)) >> 32) * FULL_TRAFFIC_BP >> 32


@overload
def bucket_of(key: int) -> int: ...
@overload
def bucket_of(key: "KeyArray") -> "KeyArray": ...
def bucket_of(key: Keys) -> Keys:
    """Jackknife bucket 0 … 255 of a user key, independent of every split."""
    return (mix64(key ^ salt64(BUCKET_SALT)) >> 32) * NUM_BUCKETS >> 32


def _weights(value: Mapping[str, object], *, allowed: set[str | None]) -> dict[str, int]:
    weights = value.get("weights_bp")
    if not isinstance(weights, Mapping):
        raise InvalidSplit("weights_bp", "must map versions to basis points")
    for version, weight in weights.items():
        if version not in allowed:
            raise InvalidSplit(f"weights_bp.{version}", "is neither stable nor candidate")
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise InvalidSplit(f"weights_bp.{version}", f"must be 0 or more basis points, not {weight!r}")
    if sum(weights.values()) != FULL_TRAFFIC_BP:
        raise InvalidSplit("weights_bp", f"must sum to {FULL_TRAFFIC_BP}, not {sum(weights.values())}")
    return dict(weights)


def _text(value: Mapping[str, object], field: str) -> str:
    found = value.get(field)
    if not isinstance(found, str) or not found:
        raise InvalidSplit(field, f"must be a non-empty string, not {found!r}")
    return found


def _integer(value: Mapping[str, object], field: str) -> int:
    found = value.get(field)
    if isinstance(found, bool) or not isinstance(found, int):
        raise InvalidSplit(field, f"must be an integer, not {found!r}")
    return found


def _seconds(value: Mapping[str, object], field: str) -> float | None:
    found = value.get(field)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise InvalidSplit(field, f"must be a number of seconds or null, not {found!r}")
    return float(found)
