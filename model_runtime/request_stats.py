"""How long requests waited and were worked on, by version, as the protocol's statistics extension tells it.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_statistics.html
"""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from control_plane.domain.model_version import Surface, VersionId

PHASES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class _Duration:
    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(seconds * 1e9)

    def to_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class _Statistics:
    last_inference_ms: int = 0
    rows: int = 0
    forwards: int = 0
    phases: dict[str, _Duration] = field(default_factory=lambda: defaultdict(_Duration))
    batches: dict[int, _Duration] = field(default_factory=lambda: defaultdict(_Duration))


class RequestStats:
    """Thread-safe; a request that two versions answered together counts for both."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_version: dict[VersionId, _Statistics] = defaultdict(_Statistics)

    def ran(self, version_id: VersionId, *, rows: int, seconds: float) -> None:
        """Count a forward; its size is told as the next power of two, since rows come in any number."""
        with self._lock:
            found = self._by_version[version_id]
            found.forwards += 1
            found.batches[1 << (rows - 1).bit_length()].add(seconds)

    def answered(self, version_id: VersionId, *, rows: int, queue_seconds: float, infer_seconds: float) -> None:
        with self._lock:
            found = self._by_version[version_id]
            found.last_inference_ms = time.time_ns() // 1_000_000
            found.rows += rows
            found.phases["queue"].add(queue_seconds)
            found.phases["compute_infer"].add(infer_seconds)
            found.phases["success"].add(queue_seconds + infer_seconds)

    def failed(self, version_id: VersionId, *, seconds: float) -> None:
        with self._lock:
            self._by_version[version_id].phases["fail"].add(seconds)

    def coded(self, version_id: VersionId, *, input_seconds: float, output_seconds: float) -> None:
        """Count the time of reading a request and of writing its answer."""
        with self._lock:
            phases = self._by_version[version_id].phases
            phases["compute_input"].add(input_seconds)
            phases["compute_output"].add(output_seconds)
            phases["success"].ns += round((input_seconds + output_seconds) * 1e9)

    def of(self, surface: Surface, version_id: VersionId) -> dict[str, object]:
        """One entry of `model_stats`."""
        with self._lock:
            found = self._by_version.get(version_id) or _Statistics()
            unknown = _Duration()
            return {
                "name": surface,
                "version": version_id,
                "last_inference": found.last_inference_ms,
                "inference_count": found.rows,
                "execution_count": found.forwards,
                "inference_stats": {phase: found.phases.get(phase, unknown).to_json() for phase in PHASES},
                "batch_stats": [
                    {"batch_size": size, "compute_infer": found.batches[size].to_json()}
                    for size in sorted(found.batches)
                ],
            }
