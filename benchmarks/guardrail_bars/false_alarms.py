"""Bar 1: one hypothesis, exactly as bad as its margin allows, looked at a thousand times; and who else would cry wolf.

Letters of the shapes: R runs, S strata, A arms, K buckets, Q user-level sums.
"""

import numpy as np

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.outcome import Alarms, Measured, Row, chunked, joined, upper_bound
from benchmarks.guardrail_bars.rules import (
    ALPHA,
    LOG_BAR,
    MARGIN,
    ONE_SIDED_Z,
    estimate,
    log_e_harm,
    passes_gates,
    rivals_alarm,
    t_below,
)
from benchmarks.guardrail_bars.scenarios import SCENARIOS, Scenario, nothing
from control_plane.domain.split import Arm

NEWCOMERS = 256  # per look, both arms
FEW_NEWCOMERS = 6  # so that nearly all looks fall on little data, where a normal score is least normal
EVERY = (1, 10, 71)  # 1000, 100 and 14 looks at the same traffic
OURS = "ours"
NAMES = {
    OURS: "this framework",
    "gbstats": "gbstats, sequential, two-sided",
    "msprt": "mSPRT on impressions",
    "msprt_users": "mSPRT, variance by user",
    "z_impressions": "z test on impressions",
    "z_users": "z test, variance by user",
    "z_bonferroni": "z test, variance by user, Bonferroni over 1000 looks",
}


def measure(*, runs: int, scenario_runs: int, looks: int) -> Measured:
    """Every rule is counted on the harmful side alone; all of them see the same traffic, behind the same gates."""
    measured = Measured()
    _tell_newcomers(measured, newcomers(runs=runs, looks=looks), looks)
    _tell_early(measured, newcomers(runs=scenario_runs, looks=looks, per_look=FEW_NEWCOMERS), looks)
    for name, scenario in SCENARIOS.items():
        found = watched(name, scenario, runs=scenario_runs, looks=looks)
        _tell(measured, name, found[OURS], looks)
        measured.figures[f"false_alarm_{name}_z_users"] = found["z_users"].share
    return measured


def newcomers(*, runs: int, looks: int, per_look: int = NEWCOMERS) -> dict[tuple[str, int], Alarms]:
    """Alarms by rule and by how many looks go by between two that count; each look brings users never seen before."""
    parts: dict[tuple[str, int], list[Alarms]] = {(name, every): [] for name in NAMES for every in EVERY}
    for count, rng in chunked(f"1 {per_look} newcomers a look", runs, 250):
        seen = {key: Alarms(count) for key in parts}
        clicks_RSAK, shown_RSAK, sums_RAQ = nothing(count), nothing(count), np.zeros((count, len(Arm), 6))
        for look in range(1, looks + 1):
            visit = crowd.draw_visit(rng, count, per_look, effect=-MARGIN)
            clicks_RSAK[:, 0] += visit.clicks_RAK()
            shown_RSAK[:, 0] += visit.shown_RAK()
            sums_RAQ += visit.user_sums_RAQ()
            found = estimate(clicks_RSAK, shown_RSAK)
            rivals = rivals_alarm(sums_RAQ, MARGIN, is_open_R=passes_gates(found))
            for name, is_alarm_R in {OURS: log_e_harm(found) >= LOG_BAR, **rivals}.items():
                for every in EVERY:
                    if look % every == 0:
                        seen[name, every].note(is_alarm_R, look)
        for key, alarms in seen.items():
            parts[key].append(alarms)
    return {key: joined(alarms) for key, alarms in parts.items()}


def watched(name: str, scenario: Scenario, *, runs: int, looks: int) -> dict[str, Alarms]:
    """First alarms of the project's rule and of a one-sided z test with the same variance."""
    parts: dict[str, list[Alarms]] = {OURS: [], "z_users": []}
    for count, rng in chunked(f"1 {name.replace('_', ' ')}", runs, 50):
        seen = {rule: Alarms(count) for rule in parts}
        for look, sums in enumerate(scenario(rng, count, looks), start=1):
            found = estimate(*sums)
            seen[OURS].note(np.asarray(log_e_harm(found) >= LOG_BAR), look)
            seen["z_users"].note(np.asarray((t_below(found, MARGIN) >= ONE_SIDED_Z) & passes_gates(found)), look)
        for rule, alarms in seen.items():
            parts[rule].append(alarms)
    return {rule: joined(alarms) for rule, alarms in parts.items()}


def _tell_newcomers(measured: Measured, found: dict[tuple[str, int], Alarms], looks: int) -> None:
    numbers = " / ".join(str(looks // every) for every in reversed(EVERY))
    for name, label in NAMES.items():
        alarms, is_ours = found[name, 1], name == OURS
        bound = upper_bound(alarms.count, len(alarms.at_R))
        shares = " / ".join(f"{100 * found[name, every].share:.1f}" for every in reversed(EVERY))
        measured.rows.append(
            Row(
                bar="1" if is_ours else "4",
                what=f"{label}: false alarms at {numbers} looks",
                measured=f"{shares} %",
                error=f"≤ {100 * bound:.1f} %",
                limit="bound ≤ 5 %" if is_ours else "",
                holds=bound <= ALPHA if is_ours else None,
            )
        )
        measured.figures[f"false_alarm_1000{_suffix(name)}"] = alarms.share
        measured.figures[f"false_alarm_1000_upper95{_suffix(name)}"] = bound
    ours, theirs = found[OURS, 1].share, found["msprt", 1].share
    measured.rows.append(
        Row(
            bar="4",
            what="this framework's false alarms beside mSPRT's on impressions",
            measured=f"{100 * ours:.1f} %",
            limit=f"≤ {100 * theirs:.1f} %",
            holds=ours <= theirs,
        )
    )


def _tell_early(measured: Measured, found: dict[tuple[str, int], Alarms], looks: int) -> None:
    _tell(measured, "early_looks", found[OURS, 1], looks)
    for rival in ("gbstats", "msprt", "msprt_users"):
        measured.figures[f"false_alarm_early_looks_{rival}"] = found[rival, 1].share
        measured.rows.append(
            Row(
                bar="4",
                what=f"{NAMES[rival]}: early looks, false alarms at {looks} looks",
                measured=f"{100 * found[rival, 1].share:.1f} %",
                error=f"≤ {100 * upper_bound(found[rival, 1].count, len(found[rival, 1].at_R)):.1f} %",
            )
        )


def _tell(measured: Measured, name: str, alarms: Alarms, looks: int) -> None:
    bound = upper_bound(alarms.count, len(alarms.at_R))
    measured.rows.append(
        Row(
            bar="1",
            what=f"{_in_words(name)}: false alarms at {looks} looks",
            measured=f"{100 * alarms.share:.1f} %",
            error=f"≤ {100 * bound:.1f} %",
            limit="bound ≤ 5 %",
            holds=bound <= ALPHA,
        )
    )
    measured.figures[f"false_alarm_{name}"] = alarms.share
    measured.figures[f"false_alarm_{name}_upper95"] = bound


def _suffix(name: str) -> str:
    return "" if name == OURS else f"_{name}"


def _in_words(name: str) -> str:
    return {"split_5_95": "5/95 split"}.get(name, name.replace("_", " "))
