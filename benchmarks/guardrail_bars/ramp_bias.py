"""Bar 6: two equal arms over a ramp with busier weekends read as equal; pooled over the days they do not.

Letters of the shapes: R runs, S strata (days), A arms, K buckets.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.outcome import Measured, Row, chunked
from benchmarks.guardrail_bars.rules import estimate
from control_plane.guardrails.estimate import FloatArray

USERS = 100_000  # both arms
READ_AFTER = (7, 14)  # days
LIMIT_POINTS = 0.4
TWO_SIDED_Z = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Readings:
    """R log ratios and their standard errors: over strata, and with all days pooled."""

    theta_R: FloatArray
    pooled_R: FloatArray
    pooled_se_R: FloatArray


def measure(*, runs: int) -> Measured:
    measured = Measured()
    worst = 0.0
    for day, readings in ramp(runs=runs).items():
        points = 100 * float(readings.theta_R.mean())
        error = 100 * float(readings.theta_R.std(ddof=1)) / math.sqrt(runs)
        pooled = 100 * float(readings.pooled_R.mean())
        better = float((readings.pooled_R / readings.pooled_se_R >= TWO_SIDED_Z).mean())
        worst = max(worst, abs(points))
        measured.figures.update(
            {
                f"ramp_bias_points_day{day}": abs(points),
                f"ramp_bias_points_day{day}_error": TWO_SIDED_Z * error,
                f"ramp_pooled_points_day{day}": pooled,
                f"ramp_pooled_significant_day{day}": better,
            }
        )
        measured.rows.extend(
            [
                Row(
                    bar="6",
                    what=f"bias of θ after {day} days, points",
                    measured=f"{points:+.2f}",
                    error=f"± {TWO_SIDED_Z * error:.2f}",
                    limit=f"|…| ≤ {LIMIT_POINTS:g}",
                    holds=abs(points) <= LIMIT_POINTS,
                ),
                Row(
                    bar="6",
                    what=f"pooled log ratio after {day} days, points; read as significantly better",
                    measured=f"{pooled:+.1f}; {100 * better:.0f} %",
                ),
            ]
        )
    measured.figures["ramp_bias_points"] = worst
    return measured


def ramp(*, runs: int) -> dict[int, Readings]:
    parts: dict[int, list[Readings]] = {day: [] for day in READ_AFTER}
    for count, rng in chunked("6 ramp", runs, 20):
        crowd_of_ramp = crowd.Ramp(rng, count, USERS)
        days = []
        for day, share in enumerate(crowd.RAMP_SHARES):
            lift = crowd.lift_on(day)
            days.append(crowd_of_ramp.rates(share).draw(rng, crowd.IMPRESSIONS / crowd.DAYS * lift, lift=lift))
            if day + 1 in parts:
                clicks_RSAK, shown_RSAK = (np.stack(sums, axis=1) for sums in zip(*days, strict=True))
                pooled = estimate(clicks_RSAK.sum(axis=1, keepdims=True), shown_RSAK.sum(axis=1, keepdims=True))
                theta_R = estimate(clicks_RSAK, shown_RSAK).theta_H
                parts[day + 1].append(Readings(theta_R=theta_R, pooled_R=pooled.theta_H, pooled_se_R=pooled.se_H))
    return {
        day: Readings(
            theta_R=np.concatenate([reading.theta_R for reading in readings]),
            pooled_R=np.concatenate([reading.pooled_R for reading in readings]),
            pooled_se_R=np.concatenate([reading.pooled_se_R for reading in readings]),
        )
        for day, readings in parts.items()
    }
