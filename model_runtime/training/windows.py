"""The rows that a run reads, in windows that fit into memory: one for all rows here, many in `training.stream`.

Shapes: T tasks, F features, M rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface
from model_runtime.networks.features import FeatureSpec, IntArray
from model_runtime.networks.nulls import RateArray, null_rates_of_rows
from model_runtime.training.data import Examples, Parts, split_by_time

Float64Array = NDArray[np.float64]


class Window(NamedTuple):
    """Some rows, and what each is used for; a row of no part is not used."""

    examples: Examples
    parts: Mapping[Surface, Parts]


class Step(NamedTuple):
    """The rows of one step, by surface."""

    examples: Examples
    rows: Mapping[Surface, IntArray]


class Windows(Protocol):
    """What is trained on, whether it lies in memory or is read as it is needed; always the same for the same seed."""

    @property
    def spec(self) -> FeatureSpec: ...

    @property
    def sizes(self) -> Mapping[Surface, tuple[int, int, int]]:
        """How many rows each surface trains, calibrates and evaluates on."""
        ...

    def windows(self, *, has_training: bool, has_held_out: bool) -> Iterator[Window]:
        """All rows of the named parts, once; others may be missing."""
        ...

    def steps_an_epoch(self, batch_rows: int) -> int: ...

    def steps(self, batch_rows: int, epochs: int, *, seed: int, done: int) -> Iterator[Step]:
        """The batches of all epochs, shuffled; those of the first `done` steps are passed over."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class InMemory:
    """All rows at once: each epoch is a permutation of all."""

    examples: Examples
    parts: Mapping[Surface, Parts]

    @property
    def spec(self) -> FeatureSpec:
        return self.examples.spec

    @property
    def sizes(self) -> Mapping[Surface, tuple[int, int, int]]:
        return {
            surface: (len(part.training), len(part.calibration), len(part.evaluation))
            for surface, part in self.parts.items()
        }

    def windows(self, *, has_training: bool, has_held_out: bool) -> Iterator[Window]:
        yield Window(self.examples, self.parts)

    def steps_an_epoch(self, batch_rows: int) -> int:
        return num_batches(sum(len(part.training) for part in self.parts.values()), batch_rows)

    def steps(self, batch_rows: int, epochs: int, *, seed: int, done: int) -> Iterator[Step]:
        row_S = [part.training for part in self.parts.values()]
        batches = mixed_batches(row_S, batch_rows, epochs, np.random.default_rng(seed))
        for batch in islice(batches, done, None):
            yield Step(self.examples, dict(zip(self.parts, batch, strict=True)))


def in_memory(examples: Examples, held_out: float) -> InMemory:
    parts = {surface: split_by_time(examples, surface, held_out) for surface in examples.spec.surfaces}
    return InMemory(examples=examples, parts=parts)


def num_batches(rows: int, batch_rows: int) -> int:
    return max(1, round(rows / batch_rows))


def mixed_batches(
    row_S: list[IntArray], batch_rows: int, epochs: int, rng: np.random.Generator
) -> Iterator[list[IntArray]]:
    """Per step, the rows of each surface: every surface in every step, by its share; every row once an epoch."""
    count = num_batches(sum(map(len, row_S)), batch_rows)
    for _ in range(epochs):
        yield from shuffled(row_S, count, rng)


def shuffled(row_S: list[IntArray], count: int, rng: np.random.Generator) -> Iterator[list[IntArray]]:
    """Each row once, in `count` batches that all have every surface by its share."""
    parts = [np.array_split(rng.permutation(row_M), count) for row_M in row_S]
    for batch in zip(*parts, strict=True):
        yield list(batch)


class Rates(NamedTuple):
    """Of a surface's training rows: labels that say yes and that say anything, by task, and how often values lack."""

    yes_T: Float64Array
    known_T: Float64Array
    null_F: RateArray


def training_rates(data: Windows) -> dict[Surface, Rates]:
    """In one pass over the training rows."""
    sums: dict[Surface, Rates] = {}
    for window in data.windows(has_training=True, has_held_out=False):
        for surface, part in window.parts.items():
            if len(part.training):
                found = _rates(window.examples, part.training)
                before = sums.get(surface)
                sums[surface] = found if before is None else Rates(*map(np.add, before, found))
    num_rows = {surface: training for surface, (training, _, _) in data.sizes.items()}
    return {surface: each._replace(null_F=each.null_F / num_rows[surface]) for surface, each in sums.items()}


def _rates(examples: Examples, row_M: IntArray) -> Rates:
    label_MT = examples.label_NT[row_M].astype(np.float64)
    return Rates(
        np.nansum(label_MT, axis=0),
        (~np.isnan(label_MT)).sum(axis=0).astype(np.float64),
        null_rates_of_rows(examples.batch(row_M)) * len(row_M),
    )
