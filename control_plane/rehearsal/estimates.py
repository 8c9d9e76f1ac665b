"""Figures over runs with their Monte-Carlo error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

INTERVAL_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """A share of runs with its exact (Clopper–Pearson) interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Over the runs it happened in; `mean_error` is the Monte-Carlo standard error of the mean, None of one run."""

    runs: int
    mean: float
    mean_error: float | None
    median: float
    tenth: float
    ninetieth: float


def proportion(count: int, total: int, *, level: float = INTERVAL_LEVEL) -> Proportion:
    """Clopper and Pearson 1934, by quantiles of the beta law."""
    tail = (1 - level) / 2
    lower = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    upper = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return Proportion(value=count / total, lower=lower, upper=upper)


def spread(values: Sequence[float]) -> Spread | None:
    """None over no runs."""
    if not values:
        return None
    value_N = np.asarray(values, dtype=np.float64)
    error = float(value_N.std(ddof=1)) / math.sqrt(value_N.size) if value_N.size > 1 else None
    tenth, median, ninetieth = (float(quantile) for quantile in np.quantile(value_N, [0.1, 0.5, 0.9]))
    return Spread(
        runs=value_N.size, mean=float(value_N.mean()), mean_error=error, median=median, tenth=tenth, ninetieth=ninetieth
    )
