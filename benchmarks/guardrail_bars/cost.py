"""Bar 7: what one hypothesis costs, from bucket sums to its e-value.

Letters of the shapes: H hypotheses, S strata, A arms, K buckets.
"""

import time

import numpy as np

from benchmarks.guardrail_bars.crowd import CTR
from benchmarks.guardrail_bars.outcome import SEED, Measured, Row
from benchmarks.guardrail_bars.rules import estimate, log_e_harm
from benchmarks.report import median, spread
from control_plane.domain.split import NUM_BUCKETS

HYPOTHESES = 36
STRATA = (1, 14)
SHOWN_PER_CELL = 2_000
LIMIT_MS = 0.5


def measure(*, rounds: int) -> Measured:
    measured = Measured()
    for strata in STRATA:
        spent_ms = milliseconds_per_hypothesis(strata, rounds=rounds)
        measured.figures[f"ms_per_hypothesis_{strata}_strata"] = median(spent_ms)
        measured.rows.append(
            Row(
                bar="7",
                what=f"one hypothesis of {strata} × {NUM_BUCKETS} cells, ms",
                measured=f"{median(spent_ms):.3g}",
                error=spread(spent_ms),
                limit=f"≤ {LIMIT_MS:g}",
                holds=median(spent_ms) <= LIMIT_MS,
            )
        )
    measured.figures["ms_per_hypothesis"] = max(measured.figures.values())
    return measured


def milliseconds_per_hypothesis(strata: int, *, rounds: int) -> list[float]:
    """Estimate and e-value of 36 hypotheses at once, over their number."""
    rng = np.random.default_rng([SEED, 7])
    shape = (HYPOTHESES, strata, 2, NUM_BUCKETS)
    shown_HSAK = rng.poisson(SHOWN_PER_CELL, shape)
    clicks_HSAK = rng.binomial(shown_HSAK, CTR)
    spent_ms = []
    for _ in range(rounds):
        started = time.perf_counter()
        log_e_harm(estimate(clicks_HSAK, shown_HSAK))
        spent_ms.append((time.perf_counter() - started) / HYPOTHESES * 1e3)
    return spent_ms
