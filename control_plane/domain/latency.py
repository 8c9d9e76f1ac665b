"""How long scoring took, as counts in fixed bins: they add up over runtimes and restarts, quantiles do not."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

# Bin i holds BOUNDS[i − 1] < t ≤ BOUNDS[i], the last what is longer than all. Ten a decade, rounded as preferred
# numbers (ISO 3, R10) are, so that limits people set (25, 40, 50, 100 ms) lie on a bound. Stored counts rely on them.
LATENCY_BOUNDS_MS = tuple(
    round(decade * step, 3)
    for decade in (0.1, 1.0, 10.0, 100.0, 1_000.0)
    for step in (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)
)
NUM_LATENCY_BINS = len(LATENCY_BOUNDS_MS) + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Slower:
    """How many took longer than a limit: between `surely` and `possibly`, which are equal on a bound.

    `low_ms` and `high_ms` are the bounds around the limit; `high_ms` is infinite beyond the last.
    """

    surely: int
    possibly: int
    low_ms: float
    high_ms: float

    @property
    def is_exact(self) -> bool:
        return self.low_ms == self.high_ms


def latency_bin(milliseconds: float) -> int:
    return bisect_left(LATENCY_BOUNDS_MS, milliseconds)


def slower_than(bins: Sequence[int], limit_ms: float) -> Slower:
    """Count what took longer than a limit, as exactly as the bins allow."""
    place = latency_bin(limit_ms)
    bound = LATENCY_BOUNDS_MS[place] if place < len(LATENCY_BOUNDS_MS) else float("inf")
    surely = sum(bins[place + 1 :])
    if limit_ms == bound:
        return Slower(surely=surely, possibly=surely, low_ms=bound, high_ms=bound)
    low = LATENCY_BOUNDS_MS[place - 1] if place else 0.0
    return Slower(surely=surely, possibly=surely + sum(bins[place : place + 1]), low_ms=low, high_ms=bound)


def quantile_ms(bins: Sequence[int], share: float) -> float | None:
    """The upper bound of the bin that holds the quantile: never below it. None of nothing, or beyond all bounds."""
    wanted, seen = share * sum(bins), 0
    for bound, count in zip(LATENCY_BOUNDS_MS, bins, strict=False):
        seen += count
        if count and seen >= wanted:
            return bound
    return None
