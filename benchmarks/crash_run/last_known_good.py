"""A runtime's splits on disk, after each of its deaths: whole, never older than before, and nobody's lease in them."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.crash_run.violation import Violation
from model_runtime.split_client import read_last_known_good


class LastKnownGood:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._generations: dict[str, int] = {}

    def problems(self) -> Iterator[Violation]:
        snapshot = read_last_known_good(self._path)
        if snapshot is None:
            if self._generations:
                yield Violation(invariant="6", where=self._path.name, what="can be read no more")
            return
        for surface, split in snapshot.splits.items():
            if split.generation < self._generations.get(surface, 0):
                what = f"went from generation {self._generations[surface]} back to {split.generation}"
                yield Violation(invariant="6", where=surface, what=what)
            if split.candidate_bp and split.unwatched_seconds_left != 0:
                yield Violation(invariant="6", where=surface, what="read from disk, its candidate is watched still")
            self._generations[surface] = split.generation
