"""Rows read as they are needed, so that memory does not grow with the data.

A first pass over two columns finds when each surface's held-out time begins and counts each row group's rows by part.
Training shuffles the row groups, reads as many as fill a buffer, and draws each batch from a permutation of the
buffer: each row comes once an epoch, every step has every surface that its buffer has, by its share. The order follows
from the seed, the epoch and the buffer's place alone, so a run that is resumed passes over what it has seen unread.

The parts are those of `split_by_time`, to the row. The batches are others than those of the same rows in memory.
Shapes: M rows of a row group, S surfaces, B bins.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.features import FeatureSpec, IntArray
from model_runtime.training.data import IMPRESSIONS_FILE, Examples, Parts, Wanted, joined, read_spec
from model_runtime.training.row_groups import RowGroup, row_groups
from model_runtime.training.windows import Step, Window, num_batches, shuffled

BUFFER_ROWS = 131_072  # mixed at once, 30 to 60 MB with 16 entries of history, thrice that as the next is read
SMALLEST_BUFFER = 4  # batches: a buffer takes more row groups rather than mix fewer
BINS = 65_536  # times are counted in, again within the bin that is looked for until it is a single millisecond

Told = Callable[[str, int, int], None]  # what is done, row groups done, of how many


class Cut(NamedTuple):
    """Rows before `at_ms` are on the near side, and of those at it the first `ties` in the order of the files."""

    at_ms: int
    ties: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A data set on disk; `split` makes it what a run reads."""

    groups: Sequence[RowGroup]
    wanted: Wanted
    buffer_rows: int = BUFFER_ROWS
    told: Told | None = None

    def __post_init__(self) -> None:
        if self.buffer_rows < 1:
            raise InvalidField("buffer_rows", f"must be at least 1, not {self.buffer_rows}")

    @property
    def spec(self) -> FeatureSpec:
        return self.wanted.used_spec

    @property
    def num_rows(self) -> int:
        """Of all row groups, used or not."""
        return sum(group.num_rows for group in self.groups)

    def identity(self) -> str:
        """The same only for the same files in the same order, of which the same rows are used."""
        used = [self.wanted.spec.to_json(), self.wanted.before_ms, sorted(self.spec.surfaces), self.buffer_rows]
        told = hashlib.sha256(repr(used).encode())
        for path in dict.fromkeys(group.path for group in self.groups):
            with path.open("rb") as file:
                told.update(hashlib.file_digest(file, "sha256").digest())
        return told.hexdigest()

    def split(self, held_out: float) -> "Streamed":
        """Find each surface's latest rows, as `split_by_time` does.

        Raises:
            InvalidField: a surface has too few rows, or a row cannot be read.
        """
        searches: list[tuple[_Search, _Search]] = []
        for index, (surface, (rows, low, high)) in enumerate(zip(self.spec.surfaces, self._spans(), strict=True)):
            num_held_out = round(rows * held_out)
            if num_held_out < 2 or num_held_out >= rows:
                raise InvalidField(str(surface), f"has {rows} rows, too few to train, calibrate and evaluate on")
            ranks = (rows - num_held_out, rows - num_held_out // 2)
            first, second = (_Search(surface=index, rank=rank, low=low, high=high) for rank in ranks)
            searches.append((first, second))
        while wide := [search for pair in searches for search in pair if not search.is_done]:
            for surface_M, time_M in self._scan("finding the latest rows"):
                for search in wide:
                    search.count(time_M[surface_M == search.surface])
            for search in wide:
                search.narrow()
        return self._streamed([(first.cut, second.cut) for first, second in searches])

    def _scan(self, what: str) -> Iterator[tuple[IntArray, IntArray]]:
        """Each row group's surfaces and times, of the rows that are used."""
        for done, group in enumerate(self.groups):
            yield self.wanted.surfaces_and_times(group)
            if self.told is not None:
                self.told(what, done + 1, len(self.groups))

    def _spans(self) -> list[tuple[int, int, int]]:
        """Of each surface its rows, its first time and its last."""
        latest = np.iinfo(np.int64)
        spans = [(0, latest.max, latest.min)] * len(self.spec.surfaces)
        for surface_M, time_M in self._scan("counting rows"):
            for index, (rows, low, high) in enumerate(spans):
                time_P = time_M[surface_M == index]
                if len(time_P):
                    spans[index] = (rows + len(time_P), min(low, int(time_P.min())), max(high, int(time_P.max())))
        return spans

    def _streamed(self, cuts: Sequence[tuple[Cut, Cut]]) -> "Streamed":
        """Count each row group's rows by surface and part, and the ties that come before it."""
        ties_S2 = np.zeros((len(cuts), 2), np.int64)
        sizes, ties_before = [], []
        for surface_M, time_M in self._scan("counting parts"):
            ties_before.append(ties_S2.copy())
            size_S3 = np.zeros((len(cuts), 3), np.int64)
            for index, (first, second) in enumerate(cuts):
                time_P = time_M[surface_M == index]
                part_P = _part_of(time_P, (first, second), ties_S2[index])
                size_S3[index] = np.bincount(part_P, minlength=3)
                ties_S2[index] += [(time_P == cut.at_ms).sum() for cut in (first, second)]
            sizes.append(size_S3)
        return Streamed(stream=self, cuts=cuts, size_GS3=np.array(sizes), ties_before_GS2=np.array(ties_before))


class _Search:
    """Looks for the cut between the first `rank` rows of a surface and the others, by time and then by the files."""

    def __init__(self, *, surface: int, rank: int, low: int, high: int) -> None:
        self.surface, self.rank, self.low, self.high = surface, rank, low, high
        self.below = 0  # rows before `low`
        self.count_B = np.zeros(BINS, np.int64)

    @property
    def is_done(self) -> bool:
        return self.low == self.high

    @property
    def cut(self) -> Cut:
        return Cut(self.low, self.rank - self.below)

    @property
    def width(self) -> int:
        return -(-(self.high - self.low + 1) // BINS)

    def count(self, time_P: IntArray) -> None:
        time_P = time_P[(time_P >= self.low) & (time_P <= self.high)]
        self.count_B += np.bincount((time_P - self.low) // self.width, minlength=BINS)

    def narrow(self) -> None:
        """To the bin that has the first row beyond the cut."""
        cumulated_B = self.below + np.cumsum(self.count_B)
        found, width = int(np.searchsorted(cumulated_B, self.rank, side="right")), self.width
        self.below = int(cumulated_B[found] - self.count_B[found])
        self.low = self.low + found * width
        self.high = min(self.high, self.low + width - 1)
        self.count_B[:] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Streamed:
    """A data set on disk of which every row's part is known; see `windows.Windows`. G row groups."""

    stream: Stream
    cuts: Sequence[tuple[Cut, Cut]]  # by surface
    size_GS3: IntArray
    ties_before_GS2: IntArray

    @property
    def spec(self) -> FeatureSpec:
        return self.stream.spec

    @property
    def sizes(self) -> Mapping[Surface, tuple[int, int, int]]:
        size_S3 = self.size_GS3.sum(axis=0).tolist()
        return {surface: (size[0], size[1], size[2]) for surface, size in zip(self.spec.surfaces, size_S3, strict=True)}

    def windows(self, *, has_training: bool, has_held_out: bool) -> Iterator[Window]:
        """A row group at a time, in the order of the files; those without a row of the named parts stay unread."""
        size_G3 = self.size_GS3.sum(axis=1)
        is_read_G = (size_G3[:, 0] > 0) & has_training | (size_G3[:, 1:].sum(axis=1) > 0) & has_held_out
        group_R = np.flatnonzero(is_read_G).tolist()
        for done, group in enumerate(group_R):
            yield self._window(group)
            if self.stream.told is not None:
                self.stream.told("scoring" if has_held_out else "looking at rows", done + 1, len(group_R))

    def steps_an_epoch(self, batch_rows: int) -> int:
        return num_batches(int(self.size_GS3[:, :, 0].sum()), batch_rows)

    def steps(self, batch_rows: int, epochs: int, *, seed: int, done: int) -> Iterator[Step]:
        for epoch in range(epochs):
            for place, (groups, count) in enumerate(self._buffers(batch_rows, np.random.default_rng([seed, epoch, 0]))):
                if done < count:
                    batches = self._batches(groups, count, np.random.default_rng([seed, epoch, 1 + place]))
                    yield from islice(batches, done, None)
                done = max(0, done - count)

    def _buffers(self, batch_rows: int, rng: np.random.Generator) -> list[tuple[list[int], int]]:
        """Row groups with training rows, shuffled, as they fill a buffer, and how many batches each buffer gives.

        The batches of an epoch are shared out by the buffers' rows, so that there are always as many.
        """
        row_G = self.size_GS3[:, :, 0].sum(axis=1)
        wanted_rows = max(self.stream.buffer_rows, SMALLEST_BUFFER * batch_rows)
        buffers: list[list[int]] = [[]]
        for group in rng.permutation(np.flatnonzero(row_G)).tolist():
            if row_G[buffers[-1]].sum() >= wanted_rows:
                buffers.append([])
            buffers[-1].append(group)
        if len(buffers) > 1 and row_G[buffers[-1]].sum() < wanted_rows / 2:
            buffers[-2] += buffers.pop()
        rows = np.array([row_G[groups].sum() for groups in buffers])
        ends = np.round(np.cumsum(rows) * (self.steps_an_epoch(batch_rows) / rows.sum())).astype(np.int64)
        return list(zip(buffers, np.diff(ends, prepend=0).tolist(), strict=True))

    def _batches(self, groups: Sequence[int], count: int, rng: np.random.Generator) -> Iterator[Step]:
        windows = [self._window(group) for group in groups]
        first_row = np.cumsum([0, *(window.examples.num_rows for window in windows)])
        rows = {
            surface: np.concatenate(
                [window.parts[surface].training + first for window, first in zip(windows, first_row, strict=False)]
            )
            for surface in self.spec.surfaces
        }
        examples = joined([window.examples for window in windows])
        del windows
        for batch in shuffled(list(rows.values()), count, rng):
            yield Step(examples, dict(zip(rows, batch, strict=True)))

    def _window(self, group: int) -> Window:
        examples = self.stream.wanted.read([self.stream.groups[group]])
        assert examples is not None, "a row group without used rows has none of any part"
        return Window(examples, {surface: self._parts(examples, group, surface) for surface in self.spec.surfaces})

    def _parts(self, examples: Examples, group: int, surface: Surface) -> Parts:
        index = self.spec.surfaces.index(surface)
        row_P = examples.rows_of(surface)
        part_P = _part_of(examples.served_at_ms_N[row_P], self.cuts[index], self.ties_before_GS2[group, index])
        training, calibration, evaluation = (row_P[part_P == part] for part in range(3))
        return Parts(training=training, calibration=calibration, evaluation=evaluation)


def _part_of(time_P: IntArray, cuts: tuple[Cut, Cut], ties_before_2: IntArray) -> IntArray:
    """0 training, 1 calibration, 2 evaluation."""
    part_P = np.zeros(len(time_P), np.int64)
    for cut, before in zip(cuts, ties_before_2.tolist(), strict=True):
        is_tie_P = time_P == cut.at_ms
        is_near_tie_P = is_tie_P & (before + np.cumsum(is_tie_P) <= cut.ties)
        part_P += (time_P >= cut.at_ms) & ~is_near_tie_P
    return part_P


def open_stream(
    folder: Path,
    *,
    before_ms: int | None = None,
    surfaces: Collection[str] | None = None,
    buffer_rows: int = BUFFER_ROWS,
    told: Told | None = None,
) -> Stream:
    """A data set to be read as it is needed; only what was served before a time, or on some surfaces.

    Raises:
        InvalidField: a file is missing or malformed.
    """
    wanted = Wanted(spec=read_spec(folder), before_ms=before_ms, surfaces=surfaces)
    return Stream(groups=row_groups(folder / IMPRESSIONS_FILE), wanted=wanted, buffer_rows=buffer_rows, told=told)
