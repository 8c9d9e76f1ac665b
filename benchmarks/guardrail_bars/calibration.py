"""Bar 5: a perfect model is left alone, one that promises 5 % too many clicks is found.

The perfect model knows every user's taste. Its horizon counts what its scores leave unexplained, `VARIANCE`.

Letters of the shapes: R runs, K buckets.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.outcome import (
    Alarms,
    Measured,
    Row,
    chunked,
    joined,
    quantile,
    quantile_interval,
    upper_bound,
)
from benchmarks.guardrail_bars.rules import LOG_BAR, log_e_miscalibrated
from control_plane.domain.moments import FIXED_POINT
from control_plane.domain.plan import CalibrationPlan
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.guardrails.calibration import calibrations
from control_plane.guardrails.estimate import FloatArray, IntArray

LOOKS = 100
NEWCOMERS = 320  # of the candidate, per look: 4 fixed horizons of +5 % after 100 looks
MISCALIBRATION = 1.05
EPSILON = CalibrationPlan().epsilon  # of a whole surface
NAIVE_BAND = 0.05  # "predicted is off by more than 5 %", told beside
SPACING = 0.01  # between looks for delays, of the fixed horizon
LONGEST = 6.0
MEDIAN_LIMIT, Q90_LIMIT = 1.2, 2.6


def variance_per_user(*, knows_tastes: bool) -> float:
    """Of log(predicted / observed) as measured on one user; a model that knows no tastes is left with the clusters."""
    mean_square_taste = (crowd.CTR**2) * (1 + 1 / crowd.TASTE_SHAPE)
    noise = (1 - mean_square_taste / crowd.CTR) / (crowd.IMPRESSIONS * crowd.CTR)
    return noise if knows_tastes else crowd.user_variance()


def horizon(*, knows_tastes: bool) -> float:
    """The candidate's users of the fixed-horizon test of a ratio of 1: two-sided 5 %, power 80 %."""
    return crowd.POWER_Z**2 * variance_per_user(knows_tastes=knows_tastes) / math.log(MISCALIBRATION) ** 2


def measure(*, runs: int, delay_runs: int) -> Measured:
    found = false_alarms(runs=runs)
    measured = Measured()
    for name, alarms in found.items():
        bound, is_judged = upper_bound(alarms.count, runs), name in ("", "_blind", "_dead_band")
        limit = 0.0 if name == "_dead_band" else 0.05
        measured.figures[f"calibration_false_alarm{name}"] = alarms.share
        measured.rows.append(
            Row(
                bar="5",
                what=f"{TITLES[name]}: false alarms at {LOOKS} looks",
                measured=f"{alarms.count} of {runs}, {100 * alarms.share:.1f} %",
                error=f"≤ {100 * bound:.1f} %",
                limit=f"≤ {100 * limit:g} %" if is_judged else "",
                holds=alarms.share <= limit if is_judged else None,
            )
        )
    for knows_tastes, name in ((True, ""), (False, "_blind")):
        delay_R = delays(runs=delay_runs, knows_tastes=knows_tastes)
        for part, probability, limit in (("median", 0.5, MEDIAN_LIMIT), ("q90", 0.9, Q90_LIMIT)):
            value = quantile(delay_R, probability)
            measured.figures[f"calibration_delay_{part}_5pct{name}"] = round(min(value, LONGEST), 4)
            users = f"{horizon(knows_tastes=knows_tastes):,.0f}".replace(",", " ")
            measured.rows.append(
                Row(
                    bar="5",
                    what=f"{TITLES[name]} × 1.05: {part} delay, fixed horizons of {users} users",
                    measured=f"{value:.2f}×",
                    error=" – ".join(f"{end:.2f}" for end in quantile_interval(delay_R, probability)),
                    limit=f"≤ {limit:g}×",
                    holds=value <= limit,
                )
            )
    return measured


TITLES = {
    "": "perfect model",
    "_blind": "right on average, knows no tastes",
    "_dead_band": f"perfect model, dead band {100 * EPSILON:g} %",
    "_band": f"perfect model, band of {100 * NAIVE_BAND:g} %, no test",
}


def false_alarms(*, runs: int) -> dict[str, Alarms]:
    parts: dict[str, list[Alarms]] = {name: [] for name in TITLES}
    for count, rng in chunked("5 calibration, perfect", runs, 100):
        alarms = {name: Alarms(count) for name in TITLES}
        perfect, blind = _Seen.nothing(count), _Seen.nothing(count)
        for look in range(1, LOOKS + 1):
            visit = crowd.draw_visit(rng, count, NEWCOMERS, share=1.0)
            perfect.add(visit, knows_tastes=True)
            blind.add(visit, knows_tastes=False)
            found = calibrations(*perfect.sums)
            alarms[""].note(log_e_miscalibrated(found, 0.0) >= LOG_BAR, look)
            alarms["_blind"].note(log_e_miscalibrated(calibrations(*blind.sums), 0.0) >= LOG_BAR, look)
            alarms["_dead_band"].note(log_e_miscalibrated(found, EPSILON) >= LOG_BAR, look)
            alarms["_band"].note(np.abs(np.expm1(found.log_ratio_H)) > NAIVE_BAND, look)
        for name, alarm in alarms.items():
            parts[name].append(alarm)
    return {name: joined(alarms) for name, alarms in parts.items()}


def delays(*, runs: int, knows_tastes: bool) -> FloatArray:
    """Fixed horizons until a model that promises 5 % too many clicks is called out, without a dead band."""
    needed = horizon(knows_tastes=knows_tastes)
    per_look = max(1, round(SPACING * needed))
    label = f"5 calibration +5 %, {'perfect' if knows_tastes else 'blind'}"
    parts = []
    for count, rng in chunked(label, runs, 100):
        alarms, seen = Alarms(count), _Seen.nothing(count)
        for look in range(1, round(LONGEST / SPACING) + 1):
            seen.add(crowd.draw_visit(rng, count, per_look, share=1.0), knows_tastes=knows_tastes, bias=MISCALIBRATION)
            is_alarm_R = log_e_miscalibrated(calibrations(*seen.sums), 0.0) >= LOG_BAR
            alarms.note(is_alarm_R, look * per_look / needed)
            if np.isfinite(alarms.at_R).all():
                break
        parts.append(alarms)
    return joined(parts).at_R


@dataclass(kw_only=True, slots=True, eq=False)
class _Seen:
    """The candidate's sums so far; scores in fixed point."""

    matured_RK: IntArray
    score_RK: IntArray
    click_RK: IntArray

    @classmethod
    def nothing(cls, runs: int) -> "_Seen":
        shape = (runs, NUM_BUCKETS)
        return cls(
            matured_RK=np.zeros(shape, np.int64), score_RK=np.zeros(shape, np.int64), click_RK=np.zeros(shape, np.int64)
        )

    @property
    def sums(self) -> tuple[IntArray, IntArray, IntArray]:
        return self.matured_RK, self.score_RK, self.click_RK

    def add(self, visit: crowd.Visit, *, knows_tastes: bool, bias: float = 1.0) -> None:
        taste_RU = visit.taste_RU if knows_tastes else np.full(visit.taste_RU.shape, crowd.CTR)
        score_RU = np.asarray(visit.shown_RU * taste_RU * (bias * FIXED_POINT))
        self.matured_RK += visit.shown_RAK()[:, Arm.CANDIDATE]
        self.click_RK += visit.clicks_RAK()[:, Arm.CANDIDATE]
        self.score_RK += np.rint(crowd.by_cell(visit.cell_RU, score_RU)[:, Arm.CANDIDATE]).astype(np.int64)
