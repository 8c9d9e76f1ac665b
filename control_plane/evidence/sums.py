"""Sums of a part of the log, kept sparse by key, so that parts add up and can be stored.

Keys are rows of int64. View type 0 stands for one that the query does not name, i for `view_types[i - 1]`.
"""

import os
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from control_plane.domain.moments import Measure, PairMeasure, ReliabilityMeasure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]

NEVER_MS = np.iinfo(np.int64).max  # first exposure of a user who never was in that arm
NONE_YET_MS = np.iinfo(np.int64).min


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sums:
    """What one or more partitions add to the moments of one (surface, stable, candidate).

    Attributes:
        cell_keys: (day, generation, view type, arm, bucket); `cells` are `Measure`s.
        pair_keys: (generation, view type, bucket); `pairs` are `PairMeasure`s.
        bin_keys: (generation, view type, arm, bucket, score bin); `bins` are counts, shape (n, 1).
        reliability_keys: (generation, view type, arm, score bin); `reliability` are `ReliabilityMeasure`s.
        users: user keys, with `user_generations`, ascending; `user_first_ms` by arm, `NEVER_MS` if never.
        newest_ms: latest exposure of the surface, latest sign of the candidate; `NONE_YET_MS` if none.
        chain: identifies the partitions that were added up.
    """

    cell_keys: "IntArray"
    cells: "IntArray"
    pair_keys: "IntArray"
    pairs: "IntArray"
    bin_keys: "IntArray"
    bins: "IntArray"
    reliability_keys: "IntArray"
    reliability: "IntArray"
    users: "NDArray[np.uint64]"
    user_generations: "IntArray"
    user_first_ms: "IntArray"
    newest_ms: "IntArray"
    chain: str = ""


def no_sums() -> Sums:
    return Sums(
        cell_keys=np.zeros((0, 5), np.int64),
        cells=np.zeros((0, len(Measure)), np.int64),
        pair_keys=np.zeros((0, 3), np.int64),
        pairs=np.zeros((0, len(PairMeasure)), np.int64),
        bin_keys=np.zeros((0, 5), np.int64),
        bins=np.zeros((0, 1), np.int64),
        reliability_keys=np.zeros((0, 4), np.int64),
        reliability=np.zeros((0, len(ReliabilityMeasure)), np.int64),
        users=np.zeros(0, np.uint64),
        user_generations=np.zeros(0, np.int64),
        user_first_ms=np.zeros((0, 2), np.int64),
        newest_ms=np.full(2, NONE_YET_MS, np.int64),
    )


def add_up(parts: Sequence[Sums], *, chain: str = "") -> Sums:
    """The sums over all parts; the same bits in whatever order and grouping the parts come."""
    cell_keys, cells = _grouped([(part.cell_keys, part.cells) for part in parts])
    pair_keys, pairs = _grouped([(part.pair_keys, part.pairs) for part in parts])
    bin_keys, bins = _grouped([(part.bin_keys, part.bins) for part in parts])
    reliability_keys, reliability = _grouped([(part.reliability_keys, part.reliability) for part in parts])
    users, user_generations, user_first_ms = _first_of_users(parts)
    return Sums(
        cell_keys=cell_keys,
        cells=cells,
        pair_keys=pair_keys,
        pairs=pairs,
        bin_keys=bin_keys,
        bins=bins,
        reliability_keys=reliability_keys,
        reliability=reliability,
        users=users,
        user_generations=user_generations,
        user_first_ms=user_first_ms,
        newest_ms=np.max([part.newest_ms for part in parts], axis=0),
        chain=chain,
    )


def save(sums: Sums, path: Path) -> None:
    """Write by atomic rename. Not synced: what is lost can be summed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            arrays = {field.name: np.asarray(getattr(sums, field.name)) for field in fields(Sums)}
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)  # noqa: PTH105 - one call for both names
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path) -> Sums | None:
    """Read what `save` wrote; None if there is nothing, or a crash left less than all of it."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {field.name: stored[field.name] for field in fields(Sums)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Sums(**{**arrays, "chain": str(arrays["chain"])})


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


def _first_of_users(parts: Sequence[Sums]) -> "tuple[NDArray[np.uint64], IntArray, IntArray]":
    users = np.concatenate([part.users for part in parts])
    generations = np.concatenate([part.user_generations for part in parts])
    first_ms = np.concatenate([part.user_first_ms for part in parts])
    if len(users) == 0:
        return users, generations, first_ms
    order = np.lexsort((generations, users))
    users, generations, first_ms = users[order], generations[order], first_ms[order]
    starts = np.flatnonzero(np.r_[True, (users[1:] != users[:-1]) | (generations[1:] != generations[:-1])])
    return users[starts], generations[starts], np.minimum.reduceat(first_ms, starts, axis=0)
