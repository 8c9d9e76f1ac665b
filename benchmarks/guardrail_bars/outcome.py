"""What a bar measured: rows for people, figures for machines; and how sure a simulation can be."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import stats

from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray

SEED = 20_260_303
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """`limit` is empty and `holds` None where something is only told beside a bar."""

    bar: str
    what: str
    measured: str
    error: str = ""
    limit: str = ""
    holds: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    rows: list[Row] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def together(*parts: Measured) -> Measured:
    return Measured(
        rows=[row for part in parts for row in part.rows],
        figures={name: value for part in parts for name, value in part.figures.items()},
    )


class Alarms:
    """When each of R runs first raised an alarm, on a clock of the caller's; infinite where it never did."""

    def __init__(self, runs: int) -> None:
        self.at_R: FloatArray = np.full(runs, np.inf)

    def note(self, is_alarm_R: BoolArray, clock: float, *, of_R: IntArray | None = None) -> None:
        """`of_R` names the runs that `is_alarm_R` speaks of, where not of all."""
        runs_R = np.flatnonzero(is_alarm_R) if of_R is None else of_R[is_alarm_R]
        self.at_R[runs_R] = np.minimum(self.at_R[runs_R], clock)

    @property
    def count(self) -> int:
        return int(np.isfinite(self.at_R).sum())

    @property
    def share(self) -> float:
        return self.count / len(self.at_R)


def joined(parts: Sequence[Alarms]) -> Alarms:
    whole = Alarms(0)
    whole.at_R = np.concatenate([part.at_R for part in parts])
    return whole


def upper_bound(count: int, runs: int) -> float:
    """One-sided 95 % Clopper–Pearson bound on a probability."""
    return 1.0 if count >= runs else float(stats.beta.ppf(CONFIDENCE, count + 1, runs - count))


def lower_bound(count: int, runs: int) -> float:
    return 0.0 if count <= 0 else float(stats.beta.ppf(1 - CONFIDENCE, count, runs - count + 1))


def quantile(value_R: FloatArray, probability: float) -> float:
    """The least value that `probability` of the runs do not exceed; infinite values allowed."""
    return float(np.sort(value_R)[_place(len(value_R), len(value_R) * probability)])


def quantile_interval(value_R: FloatArray, probability: float) -> tuple[float, float]:
    """95 % interval of a quantile, from order statistics."""
    runs = len(value_R)
    low, high = stats.binom.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], runs, probability)
    ascending = np.sort(value_R)
    return float(ascending[_place(runs, low)]), float(ascending[_place(runs, high + 1)])


def chunked(label: str, runs: int, size: int) -> Iterator[tuple[int, np.random.Generator]]:
    """Runs in chunks of at most `size`, each with a generator that no other label has, and a progress bar on stderr."""
    seed = zlib.crc32(label.encode())
    sizes = [min(size, runs - start) for start in range(0, runs, size)]
    for index, count in enumerate(track(sizes, description=label.ljust(34), console=Console(stderr=True))):
        yield count, np.random.default_rng([SEED, seed, index])


def _place(runs: int, rank: float) -> int:
    return min(max(int(np.ceil(rank)) - 1, 0), runs - 1)
