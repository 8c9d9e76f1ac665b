"""Tables of what was measured, from the full run of the benchmark that benchmarks/RESULTS.md keeps."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.guardrail_bars import calibration, cost, delays, false_alarms, ramp_bias, rollouts, split_alarms
from benchmarks.guardrail_bars.rules import ALPHA
from docs.statistics_figures.table import markdown, percent, signed, thousands

NONE_YET = (
    "*No full run of `make bench NAME=guardrails` stands in [benchmarks/RESULTS.md](../benchmarks/RESULTS.md) yet.*"
)
BLOCK = re.compile(r"```json\n(\{.*?\})\n```", re.DOTALL)
COLUMNS = ("bar", "what", "measured", "must be", "holds", "others, same traffic")
SCENARIOS = {
    "returning_users": "the same users at every look",
    "staggered_entry": "users come and fade",
    "split_5_95": "5/95 split",
    "ramp_with_switchers": "ramp, users change arms",
    "early_looks": "nearly all looks on little data",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bar:
    number: str
    what: str
    measured: str
    must_be: str
    holds: bool
    others: str = ""


def bars_table(results: str) -> str:
    """From the text of RESULTS.md; a sentence where it has no full run."""
    run = _full_run(results)
    if run is None:
        return NONE_YET
    figures: dict[str, float] = run["figures"]
    rows = [
        [bar.number, bar.what, bar.measured, bar.must_be, "yes" if bar.holds else "**no**", bar.others]
        for bar in _bars(figures)
    ]
    return f"{markdown(COLUMNS, rows)}\n\nMeasured on {run['device']}, commit {run['commit']}."


def false_alarm_table(results: str) -> str:
    """Who cries wolf after 14, 100 and 1000 looks; the shares stand in the rows, as the figures have the last only."""
    rows = []
    for name, label in false_alarms.NAMES.items():
        row = re.search(rf"\| \d {re.escape(label)}: false alarms at [\d /]+ looks \| ([\d./ ]+) % \|", results)
        if row is None:
            return NONE_YET
        shares = [f"{share} %" for share in row[1].split(" / ")]
        rows.append([f"**{label}**", *(f"**{share}**" for share in shares)] if name == "ours" else [label, *shares])
    return markdown(["who judges", "14 looks", "100 looks", "1000 looks"], rows)


def ramp_table(results: str) -> str:
    """Two equal arms over the ramp: pooled, and day by day."""
    run = _full_run(results)
    if run is None:
        return NONE_YET
    figures: dict[str, float] = run["figures"]
    rows = [
        [
            str(day),
            f"{figures[f'ramp_pooled_points_day{day}']:+.1f}",
            percent(figures[f"ramp_pooled_significant_day{day}"], 0),
            f"{figures[f'ramp_bias_points_day{day}']:.2f} ± {figures[f'ramp_bias_points_day{day}_error']:.2f}",
        ]
        for day in ramp_bias.READ_AFTER
    ]
    columns = ["days", "pooled ratio, points", 'pooled reads "significantly better"', "Mantel–Haenszel, size, points"]
    return markdown(columns, rows)


def _full_run(results: str) -> dict[str, Any] | None:
    runs = [json.loads(block) for block in BLOCK.findall(results)]
    return next((run for run in runs if run["name"] == "guardrails" and not run["figures"].get("is_quick")), None)


def _bars(figures: Mapping[str, float]) -> list[_Bar]:
    return [
        *_false_alarms(figures),
        _family(figures),
        *(_delay(figures, claim) for claim in delays.CLAIMS),
        _disaster(figures),
        *_calibration(figures),
        _ramp(figures),
        *_cost(figures),
        *_sample_ratio(figures),
    ]


def _false_alarms(figures: Mapping[str, float]) -> list[_Bar]:
    names = {"1000": "newcomers at every look"} | SCENARIOS
    rivals = {"z_impressions": "z", "z_users": "z by user", "msprt": "mSPRT", "gbstats": "gbstats"}
    bars = []
    for name, title in names.items():
        share, bound = figures[f"false_alarm_{name}"], figures[f"false_alarm_{name}_upper95"]
        others = [
            f"{label} {percent(figures[key])}"
            for rival, label in rivals.items()
            if (key := f"false_alarm_{name}_{rival}") in figures
        ]
        is_compared = name == "1000"
        bars.append(
            _Bar(
                number="1, 4" if is_compared else "1",
                what=f"at its margin, 1000 looks: {title}",
                measured=f"{percent(share)}, surely ≤ {percent(bound)}",
                must_be=f"surely ≤ {percent(ALPHA, 0)}{', at most mSPRT' if is_compared else ''}",
                holds=bound <= ALPHA and (not is_compared or share <= figures["false_alarm_1000_msprt"]),
                others=", ".join(others),
            )
        )
    return bars


def _family(figures: Mapping[str, float]) -> _Bar:
    share = figures["family_false_rollback"]
    return _Bar(
        number="2",
        what="36 hypotheses × 200 looks: false rollback",
        measured=f"{percent(share)}, surely ≤ {percent(figures['family_false_rollback_upper95'])}",
        must_be=f"≤ {percent(ALPHA, 0)}",
        holds=share <= ALPHA,
        others=f"any z test by user {percent(figures['family_false_rollback_z_users'], 0)}",
    )


def _delay(figures: Mapping[str, float], claim: delays.Claim) -> _Bar:
    def both(suffix: str) -> str:
        median, q90 = (figures[f"delay_{part}_{claim.name}{suffix}"] for part in ("median", "q90"))
        return f"{median:.2f} / {q90:.2f}×"

    is_compared = claim.name in ("3pct", "5pct")
    ours = {part: figures[f"delay_{part}_{claim.name}"] for part in ("median", "q90")}
    holds = ours["median"] <= claim.median and ours["q90"] <= claim.q90
    if is_compared:
        holds &= all(value < figures[f"delay_{part}_{claim.name}_gbstats"] for part, value in ours.items())
    return _Bar(
        number="3, 4" if is_compared else "3",
        what=f"{signed(claim.effect)}: delay over fixed horizon, median / 90th percentile",
        measured=both(""),
        must_be=f"≤ {claim.median:g} / {claim.q90:g}×{', below gbstats' if is_compared else ''}",
        holds=holds,
        others=f"gbstats {both('_gbstats')}, mSPRT by user {both('_msprt_users')}",
    )


def _disaster(figures: Mapping[str, float]) -> _Bar:
    claim = delays.DISASTER
    median, q90 = (figures[f"users_{part}_{claim.name}"] for part in ("median", "q90"))
    rivals = []
    for rival, label in (("gbstats", "gbstats"), ("msprt_users", "mSPRT by user")):
        theirs = [figures[f"users_{part}_{claim.name}_{rival}"] for part in ("median", "q90")]
        rivals.append(f"{label} {theirs[0]:.0f} / {theirs[1]:.0f}")
    return _Bar(
        number="3",
        what=f"{signed(claim.effect)}: users seen per arm, median / 90th percentile",
        measured=f"{median:.0f} / {q90:.0f}",
        must_be=f"≤ {claim.median:.0f} / {claim.q90:.0f}",
        holds=median <= claim.median and q90 <= claim.q90,
        others=", ".join(rivals),
    )


def _calibration(figures: Mapping[str, float]) -> list[_Bar]:
    dead_band = figures["calibration_false_alarm_dead_band"]
    bars = [
        _Bar(
            number="5",
            what="perfect model, dead band of 2 %, 100 looks: false alarms",
            measured=percent(dead_band),
            must_be="0 %",
            holds=dead_band == 0,
            others=f'"off by more than 5 %" {percent(figures["calibration_false_alarm_band"], 0)}',
        )
    ]
    for suffix, model in (("", "perfect model"), ("_blind", "right on average, knows no tastes")):
        alarms = figures[f"calibration_false_alarm{suffix}"]
        median, q90 = (figures[f"calibration_delay_{part}_5pct{suffix}"] for part in ("median", "q90"))
        bars += [
            _Bar(
                number="5",
                what=f"{model}, no dead band, 100 looks: false alarms",
                measured=percent(alarms),
                must_be=f"≤ {percent(ALPHA, 0)}",
                holds=alarms <= ALPHA,
            ),
            _Bar(
                number="5",
                what=f"{model} × 1.05: delay over fixed horizon, median / 90th percentile",
                measured=f"{median:.2f} / {q90:.2f}×",
                must_be=f"≤ {calibration.MEDIAN_LIMIT:g} / {calibration.Q90_LIMIT:g}×",
                holds=median <= calibration.MEDIAN_LIMIT and q90 <= calibration.Q90_LIMIT,
            ),
        ]
    return bars


def _ramp(figures: Mapping[str, float]) -> _Bar:
    worst = figures["ramp_bias_points"]
    return _Bar(
        number="6",
        what="ramp with busier weekends: bias after 7 and 14 days, points",
        measured=f"{worst:.2f}",
        must_be=f"≤ {ramp_bias.LIMIT_POINTS:g}",
        holds=worst <= ramp_bias.LIMIT_POINTS,
        others=f"pooled {figures['ramp_pooled_points_day7']:+.1f}",
    )


def _cost(figures: Mapping[str, float]) -> list[_Bar]:
    limits = {
        "ms_per_hypothesis": ("one hypothesis, 256 buckets", "ms", cost.LIMIT_MS),
        "sweep_36x14_ms": ("one rollout of 36 hypotheses × 14 strata", "ms", rollouts.SWEEP_LIMIT_MS),
        "state_mb": ("its state, 10⁴ to 10⁷ users", "MB", rollouts.STATE_LIMIT_MB),
        "rollouts_1000_s": ("1000 rollouts × 3 surfaces × 12", "s", rollouts.ROLLOUTS_LIMIT_S),
        "rollouts_1000_mb": ("the same, peak memory", "MB", rollouts.ROLLOUTS_LIMIT_MB),
    }
    return [
        _Bar(
            number="7",
            what=what,
            measured=f"{figures[name]:.3g} {unit}",
            must_be=f"≤ {limit:g} {unit}",
            holds=figures[name] <= limit,
        )
        for name, (what, unit, limit) in limits.items()
    ]


def _sample_ratio(figures: Mapping[str, float]) -> list[_Bar]:
    share, users = figures["srm_false_alarm"], figures["srm_users_median"]
    chi_square = max(value for name, value in figures.items() if name.endswith("chi_square"))
    return [
        _Bar(
            number="8",
            what="a split that keeps its promise, 1000 looks at α .001: alarms, worst of 50, 5 and 1 %",
            measured=percent(share, 2),
            must_be=f"≤ {percent(split_alarms.LIMIT)}",
            holds=share <= split_alarms.LIMIT,
            others=f"chi-square {percent(chi_square)}",
        ),
        _Bar(
            number="8",
            what="49/51 for 50/50: users until found, median",
            measured=thousands(users),
            must_be=f"≤ {thousands(split_alarms.USERS_LIMIT)}",
            holds=users <= split_alarms.USERS_LIMIT,
        ),
    ]
