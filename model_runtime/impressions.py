"""What was shown to whom, as the columns of the event log. S = impressions."""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from control_plane.domain.events import HOME_ARM
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.split import MASK64, Arm, Split, mix64

ARM_NAMES = ("stable", "candidate")  # by Arm


class ImpressionIds:
    """64-bit ids: a counter that starts at a random point, mixed; unique here, and by chance elsewhere."""

    def __init__(self) -> None:
        self._next = secrets.randbits(64)
        self._lock = threading.Lock()

    def take(self, count: int) -> NDArray[np.uint64]:
        with self._lock:
            first = self._next
            self._next = (first + count) & MASK64
        return mix64(np.arange(count, dtype=np.uint64) + np.uint64(first))


@dataclass(frozen=True, kw_only=True, slots=True)
class Impressions:
    """One batch of impressions of one surface under one generation; `view_type_S` indexes `view_types`."""

    surface: Surface
    generation: int
    served_at_ms: int
    view_types: tuple[ViewType, ...]
    impression_id_S: NDArray[np.uint64]
    user_key_S: NDArray[np.uint64]
    view_type_S: NDArray[np.int64]

    def exposures(self, split: Split, arm_S: NDArray[np.int64], score_S: NDArray[np.float32]) -> pa.RecordBatch:
        """Columns as the fields of `events.Exposure`; of a split that is home `arm_S` is all stable."""
        versions = [split.version_of(arm) for arm in Arm]
        names = (HOME_ARM,) if split.is_home else ARM_NAMES
        return self._record(arm=_named(arm_S, names), version_id=_named(arm_S, versions), score=score_S)

    def shadow_scores(self, version_id: VersionId, score_S: NDArray[np.float32]) -> pa.RecordBatch:
        """Columns as the fields of `events.ShadowScore`."""
        return self._record(version_id=_named(np.zeros(len(score_S), np.int64), [version_id]), score=score_S)

    def where(self, is_kept_S: NDArray[np.bool_]) -> "Impressions":
        return Impressions(
            surface=self.surface,
            generation=self.generation,
            served_at_ms=self.served_at_ms,
            view_types=self.view_types,
            impression_id_S=self.impression_id_S[is_kept_S],
            user_key_S=self.user_key_S[is_kept_S],
            view_type_S=self.view_type_S[is_kept_S],
        )

    def _record(self, *, score: NDArray[np.float32], **columns: pa.Array) -> pa.RecordBatch:
        count = len(self.impression_id_S)
        return pa.RecordBatch.from_pydict(
            {
                "impression_id": pa.array(self.impression_id_S),
                "user_key": pa.array(self.user_key_S),
                "served_at_ms": pa.array(np.full(count, self.served_at_ms, np.int64)),
                "surface": _named(np.zeros(count, np.int64), [self.surface]),
                "view_type": _named(self.view_type_S, self.view_types),
                **columns,
                "generation": pa.array(np.full(count, self.generation, np.int64)),
                "score": pa.array(score.astype(np.float64)),
            }
        )


def _named(index_S: NDArray[np.int64], names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(index_S.astype(np.int32)), pa.array(list(names), pa.string()))
