"""Sums of a part of the log, kept sparse by key, so that parts add up and can be stored.

Keys are rows of int64. View type 0 stands for one that the query does not name, i for `view_types[i - 1]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from control_plane.domain.moments import Measure, PairMeasure, ReliabilityMeasure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]

KEYED = {  # columns of keys to the columns that add up under them
    "cell_keys": "cells",
    "pair_keys": "pairs",
    "bin_keys": "bins",
    "score_pair_keys": "score_pairs",
    "reliability_keys": "reliability",
    "shadow_reliability_keys": "shadow_reliability",
    "before_keys": "before",
}
NONE_YET_MS = np.iinfo(np.int64).min


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sums:
    """What one or more partitions add to the moments of one (surface, stable, candidate).

    Attributes:
        cell_keys: (day, generation, view type, arm, bucket); `cells` are `Measure`s.
        pair_keys: (generation, view type, bucket); `pairs` are `PairMeasure`s.
        bin_keys: (generation, view type, arm, bucket, score bin); `bins` are counts, shape (n, 1).
        score_pair_keys: (generation, 0, coarse bucket, stable's bin, candidate's bin); `score_pairs` are counts.
        reliability_keys: (generation, view type, arm, coarse bucket, score bin); `reliability` are
            `ReliabilityMeasure`s.
        shadow_reliability_keys: the same of the pairs.
        before_keys: (band of the split's slots, view type, bucket); `before` are `Measure`s of days before the start.
        newest_ms: latest exposure of the surface, latest sign of the candidate; `NONE_YET_MS` if none.
    """

    cell_keys: "IntArray"
    cells: "IntArray"
    pair_keys: "IntArray"
    pairs: "IntArray"
    bin_keys: "IntArray"
    bins: "IntArray"
    score_pair_keys: "IntArray"
    score_pairs: "IntArray"
    reliability_keys: "IntArray"
    reliability: "IntArray"
    shadow_reliability_keys: "IntArray"
    shadow_reliability: "IntArray"
    before_keys: "IntArray"
    before: "IntArray"
    newest_ms: "IntArray"

    def to_arrays(self) -> "dict[str, NDArray[np.generic]]":
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: "Mapping[str, NDArray[np.generic]]") -> Self:
        return cls(**{field.name: np.asarray(arrays[field.name]) for field in fields(cls)})


def no_sums() -> Sums:
    return Sums(
        cell_keys=np.zeros((0, 5), np.int64),
        cells=np.zeros((0, len(Measure)), np.int64),
        pair_keys=np.zeros((0, 3), np.int64),
        pairs=np.zeros((0, len(PairMeasure)), np.int64),
        bin_keys=np.zeros((0, 5), np.int64),
        bins=np.zeros((0, 1), np.int64),
        score_pair_keys=np.zeros((0, 5), np.int64),
        score_pairs=np.zeros((0, 1), np.int64),
        reliability_keys=np.zeros((0, 5), np.int64),
        reliability=np.zeros((0, len(ReliabilityMeasure)), np.int64),
        shadow_reliability_keys=np.zeros((0, 5), np.int64),
        shadow_reliability=np.zeros((0, len(ReliabilityMeasure)), np.int64),
        before_keys=np.zeros((0, 3), np.int64),
        before=np.zeros((0, len(Measure)), np.int64),
        newest_ms=np.full(2, NONE_YET_MS, np.int64),
    )


def add_up(parts: Sequence[Sums]) -> Sums:
    """The sums over all parts; the same bits in whatever order and grouping the parts come."""
    grouped: dict[str, IntArray] = {}
    for keys, values in KEYED.items():
        pairs = [(getattr(part, keys), getattr(part, values)) for part in parts]
        grouped[keys], grouped[values] = _grouped(pairs)
    return Sums(**grouped, newest_ms=np.max([part.newest_ms for part in parts], axis=0))


def _grouped(parts: "Sequence[tuple[IntArray, IntArray]]") -> "tuple[IntArray, IntArray]":
    """Add up the values of equal keys; keys come out ascending."""
    keys = np.concatenate([keys for keys, _ in parts])
    values = np.concatenate([values for _, values in parts])
    if len(keys) == 0:
        return keys, values
    order = np.lexsort(keys.T[::-1])
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.r_[True, np.any(keys[1:] != keys[:-1], axis=1)])
    return keys[starts], np.add.reduceat(values, starts, axis=0)
