"""Bar 8: a split that keeps its promise is believed at a thousand looks; 49/51 instead of 50/50 is found.

E is convex in the candidate's count, so at each look it crosses at two counts; they are found once, by the
project's own function, and then compared with many runs at once.

Letters of the shapes: R runs, L looks.
"""

import math

import numpy as np
from scipy import stats

from benchmarks.guardrail_bars.outcome import Measured, Row, chunked, quantile, quantile_interval, upper_bound
from benchmarks.guardrail_bars.rules import PLAN
from control_plane.domain.moments import Draw
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.guardrails.estimate import FloatArray, IntArray
from control_plane.guardrails.sample_ratio import log_e_sample_ratio

THRESHOLD = math.log(PLAN.sample_ratio_threshold)
ALPHA = 1 / PLAN.sample_ratio_threshold
SHARES_BP = (5_000, 500, 100)
NEWCOMERS = 200  # per look, both arms
ACTUAL = 0.49  # of 50 %
LONGEST_SEARCH = 1_500  # looks
LIMIT, USERS_LIMIT = 0.003, 50_000


def measure(*, runs: int, search_runs: int, looks: int) -> Measured:
    measured = Measured()
    worst = 0.0
    for share_bp in SHARES_BP:
        alarms, chi_square = false_alarms(share_bp, runs=runs, looks=looks)
        worst = max(worst, alarms / runs)
        share = f"{share_bp / 100:g}/{100 - share_bp / 100:g}"
        measured.rows.extend(
            [
                Row(
                    bar="8",
                    what=f"promised {share}: false alarms at {looks} looks",
                    measured=f"{100 * alarms / runs:.3f} %",
                    error=f"≤ {100 * upper_bound(alarms, runs):.3f} %",
                    limit=f"≤ {100 * LIMIT:g} %",
                    holds=alarms / runs <= LIMIT,
                ),
                Row(bar="8", what=f"promised {share}: chi-square at .001", measured=f"{100 * chi_square / runs:.1f} %"),
            ]
        )
        measured.figures[f"srm_false_alarm_{share_bp}bp"] = alarms / runs
        measured.figures[f"srm_false_alarm_{share_bp}bp_chi_square"] = chi_square / runs
    measured.figures["srm_false_alarm"] = worst
    users_R = users_until_found(runs=search_runs)
    median = quantile(users_R, 0.5)
    measured.figures["srm_users_median"] = median
    measured.rows.append(
        Row(
            bar="8",
            what="promised 50/50, in truth 49/51: users when found, median",
            measured=f"{median:.0f}",
            error=" – ".join(f"{end:.0f}" for end in quantile_interval(users_R, 0.5)),
            limit=f"≤ {USERS_LIMIT}",
            holds=median <= USERS_LIMIT,
        )
    )
    return measured


def false_alarms(share_bp: int, *, runs: int, looks: int) -> tuple[int, int]:
    """Runs in which E, and a chi-square test at the same α, ever cried out."""
    users_L = NEWCOMERS * np.arange(1, looks + 1)
    low_L, high_L = crossings(share_bp, users_L)
    share = share_bp / FULL_TRAFFIC_BP
    alarms = chi_square = 0
    for count, rng in chunked(f"8 split {share_bp / 100:g} %", runs, 1_000):
        candidate_RL = np.cumsum(rng.binomial(NEWCOMERS, share, size=(count, looks)), axis=1)
        alarms += int(((candidate_RL <= low_L) | (candidate_RL >= high_L)).any(axis=1).sum())
        statistic_RL = np.square(candidate_RL - users_L * share) / (users_L * share * (1 - share))
        chi_square += int((statistic_RL >= stats.chi2.isf(ALPHA, 1)).any(axis=1).sum())
    return alarms, chi_square


def users_until_found(*, runs: int) -> FloatArray:
    """Users of both arms together at the alarm; infinite where it never came."""
    users_L = NEWCOMERS * np.arange(1, LONGEST_SEARCH + 1)
    low_L, high_L = crossings(5_000, users_L)
    parts = []
    for count, rng in chunked("8 split 49/51", runs, 500):
        candidate_RL = np.cumsum(rng.binomial(NEWCOMERS, ACTUAL, size=(count, len(users_L))), axis=1)
        is_alarm_RL = (candidate_RL <= low_L) | (candidate_RL >= high_L)
        parts.append(np.where(is_alarm_RL.any(axis=1), users_L[is_alarm_RL.argmax(axis=1)], np.inf))
    return np.concatenate(parts)


def crossings(share_bp: int, users_L: IntArray) -> tuple[IntArray, IntArray]:
    """The largest count of candidate's users below what was promised, and the least above, at which E crosses."""
    pairs = [(_crossing(share_bp, users, -1), _crossing(share_bp, users, 1)) for users in users_L.tolist()]
    low_L, high_L = np.array(pairs).T
    return low_L, high_L


def _crossing(share_bp: int, users: int, direction: int) -> int:
    """By bisection between what was promised and nobody, or everybody; one beyond these where E never crosses."""
    inside = round(users * share_bp / FULL_TRAFFIC_BP)
    outside = users + 1 if direction > 0 else -1
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (inside, middle) if _has_crossed(share_bp, users, middle) else (middle, outside)
    return outside


def _has_crossed(share_bp: int, users: int, candidate: int) -> bool:
    draw = Draw(generation=1, above_bp=0, candidate_bp=share_bp, stable=users - candidate, candidate=candidate)
    return log_e_sample_ratio([draw]) >= THRESHOLD
