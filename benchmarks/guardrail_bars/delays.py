"""Bars 3 and 4: how many users it takes to notice that a candidate is worse, beside the fixed-horizon test and rivals.

A delay is users per arm at the alarm over the users per arm of the ordinary fixed-horizon test of the same null
hypothesis, "no worse than the margin": two-sided 5 %, power 80 %, variance by user (`crowd.fixed_horizon`).
Every user comes once, with all impressions at once, so that users are the clock.

Letters of the shapes: R runs, A arms, K buckets, Q user-level sums.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.outcome import Alarms, Measured, Row, chunked, joined, quantile, quantile_interval
from benchmarks.guardrail_bars.rules import LOG_BAR, MARGIN, estimate, log_e_harm, passes_gates, rivals_alarm
from control_plane.domain.split import NUM_BUCKETS
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray

SPACING = 0.01  # between looks, of the fixed horizon; beyond it of what was seen
LONGEST = 8.0  # fixed horizons after which a run is given up
OURS, ZERO = "ours", "ours, margin 0"
RIVALS = ("gbstats", "msprt", "msprt_users", "z_bonferroni")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    effect: float
    name: str  # in the figures
    median: float  # of bar 3
    q90: float


CLAIMS = (
    Claim(effect=-0.03, name="3pct", median=1.3, q90=2.9),
    Claim(effect=-0.05, name="5pct", median=1.25, q90=2.8),
    Claim(effect=-0.10, name="10pct", median=1.25, q90=2.8),
)
DISASTER = Claim(effect=-0.50, name="50pct", median=300, q90=550)  # in users seen per arm


def measure(*, runs: int) -> Measured:
    measured = Measured()
    for claim in CLAIMS:
        users = delays(claim.effect, runs=runs if claim is CLAIMS[0] else 2 * runs)
        _tell(measured, claim, {name: at_R / crowd.fixed_horizon(claim.effect, MARGIN) for name, at_R in users.items()})
        _tell_without_margin(measured, claim, users[ZERO] / crowd.fixed_horizon(claim.effect, 0.0))
    assigned = delays(DISASTER.effect, runs=8 * runs, chunk=200)
    _tell_disaster(measured, {name: at_R * crowd.SEEN_SHARE for name, at_R in assigned.items()})
    return measured


def delays(effect: float, *, runs: int, chunk: int = 50) -> dict[str, FloatArray]:
    """Users per arm at each rule's first alarm, per run; infinite where a run was given up first."""
    horizon = crowd.fixed_horizon(effect, MARGIN)
    parts = [
        _until_found(rng, count, effect, _looks(horizon))
        for count, rng in chunked(f"3 delay at {100 * effect:.0f} %", runs, chunk)
    ]
    return {name: joined([part[name] for part in parts]).at_R for name in parts[0]}


def _looks(horizon: float) -> list[int]:
    """Users per arm at each look: evenly spaced to the horizon, in even ratios beyond it."""
    even = np.arange(1, round(1 / SPACING) + 1) * SPACING * horizon
    beyond = horizon * (1 + SPACING) ** np.arange(1, np.log(LONGEST) / np.log1p(SPACING))
    return [int(users) for users in np.unique(np.maximum(np.rint(np.concatenate([even, beyond])), 1))]


def _until_found(rng: np.random.Generator, runs: int, effect: float, looks: list[int]) -> dict[str, Alarms]:
    alarms = {name: Alarms(runs) for name in (OURS, ZERO, *RIVALS)}
    going_R: IntArray = np.arange(runs)
    shape = (runs, 1, 2, NUM_BUCKETS)
    clicks_RSAK, shown_RSAK = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    sums_RAQ, seen = np.zeros((runs, 2, 6)), 0
    for users in looks:
        visit = crowd.draw_visit(rng, len(going_R), 2 * (users - seen), effect=effect)
        clicks_RSAK[:, 0] += visit.clicks_RAK()
        shown_RSAK[:, 0] += visit.shown_RAK()
        sums_RAQ, seen = sums_RAQ + visit.user_sums_RAQ(), users
        for name, is_alarm_R in _alarming(clicks_RSAK, shown_RSAK, sums_RAQ).items():
            alarms[name].note(is_alarm_R, users, of_R=going_R)
        is_open_R = ~np.isfinite([alarm.at_R[going_R] for alarm in alarms.values()]).all(axis=0)
        if not is_open_R.any():
            break
        going_R = going_R[is_open_R]
        clicks_RSAK, shown_RSAK, sums_RAQ = clicks_RSAK[is_open_R], shown_RSAK[is_open_R], sums_RAQ[is_open_R]
    return alarms


def _alarming(clicks_RSAK: IntArray, shown_RSAK: IntArray, sums_RAQ: FloatArray) -> dict[str, BoolArray]:
    found = estimate(clicks_RSAK, shown_RSAK)
    rivals = rivals_alarm(sums_RAQ, MARGIN, is_open_R=passes_gates(found))
    ours = {OURS: log_e_harm(found, MARGIN) >= LOG_BAR, ZERO: log_e_harm(found, 0.0) >= LOG_BAR}
    return {**ours, **{name: rivals[name] for name in RIVALS}}


def _tell(measured: Measured, claim: Claim, delay_of: dict[str, FloatArray]) -> None:
    for name, probability, limit in (("median", 0.5, claim.median), ("q90", 0.9, claim.q90)):
        ours = quantile(delay_of[OURS], probability)
        measured.figures[f"delay_{name}_{claim.name}"] = round(ours, 4)
        measured.rows.append(
            Row(
                bar="3",
                what=f"{100 * claim.effect:.0f} %: {name} delay, fixed horizons of {_horizon(claim.effect, MARGIN)}",
                measured=f"{ours:.2f}×",
                error=_interval(delay_of[OURS], probability),
                limit=f"≤ {limit:g}×",
                holds=ours <= limit,
            )
        )
        for rival in RIVALS:
            theirs = quantile(delay_of[rival], probability)
            measured.figures[f"delay_{name}_{claim.name}_{rival}"] = round(min(theirs, LONGEST), 4)
            is_judged = rival == "gbstats" and claim.name in ("3pct", "5pct")
            measured.rows.append(
                Row(
                    bar="4",
                    what=f"{100 * claim.effect:.0f} %: {name} delay of {rival}",
                    measured=f"{theirs:.2f}×",
                    error=_interval(delay_of[rival], probability),
                    limit=f"> {ours:.2f}×" if is_judged else "",
                    holds=ours < theirs if is_judged else None,
                )
            )


def _tell_without_margin(measured: Measured, claim: Claim, delay_R: FloatArray) -> None:
    for name, probability in (("median", 0.5), ("q90", 0.9)):
        measured.figures[f"delay_{name}_{claim.name}_margin0"] = round(min(quantile(delay_R, probability), LONGEST), 4)
    measured.rows.append(
        Row(
            bar="3",
            what=f"{100 * claim.effect:.0f} %, margin 0: median / q90, fixed horizons of {_horizon(claim.effect, 0.0)}",
            measured=f"{quantile(delay_R, 0.5):.2f} / {quantile(delay_R, 0.9):.2f}×",
        )
    )


def _tell_disaster(measured: Measured, users_of: dict[str, FloatArray]) -> None:
    for name, probability, limit in (("median", 0.5, DISASTER.median), ("q90", 0.9, DISASTER.q90)):
        users = quantile(users_of[OURS], probability)
        measured.figures[f"users_{name}_{DISASTER.name}"] = round(users, 1)
        measured.rows.append(
            Row(
                bar="3",
                what=f"-50 %: {name}, users seen per arm",
                measured=f"{users:.0f}",
                error=" – ".join(f"{end:.0f}" for end in quantile_interval(users_of[OURS], probability)),
                limit=f"≤ {limit:.0f}",
                holds=users <= limit,
            )
        )
        for rival in RIVALS:
            theirs = quantile(users_of[rival], probability)
            measured.figures[f"users_{name}_{DISASTER.name}_{rival}"] = round(theirs, 1)
            measured.rows.append(
                Row(bar="4", what=f"-50 %: {name}, users seen per arm, {rival}", measured=f"{theirs:.0f}")
            )


def _horizon(effect: float, margin: float) -> str:
    return f"{crowd.fixed_horizon(effect, margin):,.0f} users per arm".replace(",", " ")


def _interval(delay_R: FloatArray, probability: float) -> str:
    return " – ".join(f"{end:.2f}" for end in quantile_interval(delay_R, probability))
