"""Pictures of the ramp: what a stage must show before the next, and why days are compared with themselves.

Letters of the shapes: R runs, S strata (days), A arms, K buckets, N shares.
"""

import numpy as np

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.outcome import chunked
from benchmarks.guardrail_bars.ramp_bias import USERS
from benchmarks.guardrail_bars.rules import PLAN, estimate
from control_plane.domain.moments import Moments
from control_plane.domain.plan import DEFAULT_MARGINS, GuardrailPlan, Metric, RolloutPlan, Step
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.guardrails.estimate import FloatArray
from control_plane.guardrails.look import Look
from docs.statistics_figures.drawing import BLUE, FAINT, GREY, INK, ORANGE, PURPLE, beside, canvas, style, svg
from docs.statistics_figures.table import markdown, percent
from tests.guardrails.builders import empty_moments

STEPS_BP = (100, 500, 1_000, 2_500, 5_000, FULL_TRAFFIC_BP)
SHOWN_METRICS = {Metric.CTR: (BLUE, "-"), Metric.HIDE_RATE: (PURPLE, "--")}
RAMP_RUNS, RAMP_CHUNK = 100, 20
WEEKENDS = ((5, 7), (12, 14))  # days


def stage_margins() -> tuple[str, dict[str, str]]:
    share_N = np.geomspace(10, FULL_TRAFFIC_BP, 150).round().astype(int)
    percent_N = share_N / 100
    with style():
        figure, left, right = beside(3.3)
        for metric, (colour, line) in SHOWN_METRICS.items():
            margin_N = np.array([_margin(metric, share_bp) for share_bp in share_N.tolist()])
            left.plot(percent_N, 100 * margin_N, line, color=colour, label=metric.value)
            right.plot(percent_N, margin_N * percent_N, line, color=colour, label=metric.value)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
            axes.set_xlabel("share of traffic put at risk next, %")
            axes.set_ylim(0)
        left.set_yticks([0, 3, 5, 8, 10, 15, 20])
        left.set_title("what must be shown before the step: margin, %")
        left.legend(loc="lower left")
        right.set_title("what it bounds: share × margin, % of the surface")
        right.axhline(100 * PLAN.loss_budget, color=GREY, linewidth=1, linestyle=":")
        right.annotate(f"loss budget {100 * PLAN.loss_budget:g} %", (0.11, 100 * PLAN.loss_budget + 0.1), color=GREY)
        return svg(figure), {}


def margin_table() -> str:
    """Of the default margins, on the way of a usual ramp."""
    rows = [
        [percent(share_bp / FULL_TRAFFIC_BP, 0)] + [_margin_and_loss(metric, share_bp) for metric in DEFAULT_MARGINS]
        for share_bp in STEPS_BP
    ]
    return markdown(["next share", *(f"{metric}: margin (bound)" for metric in DEFAULT_MARGINS)], rows)


def _margin_and_loss(metric: Metric, share_bp: int) -> str:
    margin = _margin(metric, share_bp)
    return f"{percent(margin)} ({100 * margin * share_bp / FULL_TRAFFIC_BP:.2f} %)"


def _margin(metric: Metric, next_share_bp: int) -> float:
    harm, safe = DEFAULT_MARGINS[metric]
    guardrail = GuardrailPlan(metric=metric, harm_margin=harm, safe_margin=safe)
    plan = RolloutPlan(name="picture", steps=(Step(share_bp=FULL_TRAFFIC_BP),), guardrails=(guardrail,))
    moments: Moments = empty_moments()
    stage = Stage(
        phase=Phase.RAMPING,
        step=0,
        share_bp=0,
        next_share_bp=next_share_bp,
        advances_left=1,
        generation=1,
        stage_generation=1,
        started_at_ms=moments.as_of_ms,
        entered_at_ms=moments.as_of_ms,
    )
    return Look(plan=plan, stage=stage, moments=moments).margin(guardrail, 1.0)


def weekend_ramp() -> tuple[str, dict[str, str]]:
    """Two equal arms, read after each day."""
    theta_RS, pooled_RS = _readings()
    day_S = np.arange(1, crowd.DAYS + 1)
    with style():
        figure, axes = canvas(3.6)
        for start, end in WEEKENDS:
            axes.axvspan(start, end, color=FAINT, alpha=0.6, linewidth=0)
        for value_RS, colour, line, name in (
            (pooled_RS, ORANGE, "--", "all days pooled"),
            (theta_RS, BLUE, "-", "Mantel–Haenszel over days (Surefoot)"),
        ):
            low_S, high_S = np.quantile(100 * np.expm1(value_RS), [0.1, 0.9], axis=0)
            axes.fill_between(day_S, low_S, high_S, color=colour, alpha=0.2, linewidth=0)
            axes.plot(day_S, 100 * np.expm1(value_RS).mean(axis=0), line, marker="o", color=colour, label=name)
        axes.axhline(0, color=INK, linewidth=1, linestyle=":")
        for day, share in enumerate(crowd.RAMP_SHARES):
            if day == 0 or share != crowd.RAMP_SHARES[day - 1]:
                axes.annotate(f"{100 * share:g} %", (day + 0.05, 1.0), xycoords=("data", "axes fraction"), va="top")
        axes.set_xlim(0, crowd.DAYS)
        axes.set_ylim(-12, 16)
        axes.set_xlabel("days since the start (weekends shaded; the candidate's share above)")
        axes.set_ylabel("estimated effect, %")
        axes.legend(loc="lower right")
        return svg(figure), {}


def _readings() -> tuple[FloatArray, FloatArray]:
    """Log ratios by day, (R, S): over strata, and with all days pooled."""
    parts = []
    for count, rng in chunked("picture of the ramp", RAMP_RUNS, RAMP_CHUNK):
        users, days, columns = crowd.Ramp(rng, count, USERS), [], []
        for day, share in enumerate(crowd.RAMP_SHARES):
            lift = crowd.lift_on(day)
            days.append(users.rates(share).draw(rng, crowd.IMPRESSIONS / crowd.DAYS * lift, lift=lift))
            clicks_RSAK, shown_RSAK = (np.stack(sums, axis=1) for sums in zip(*days, strict=True))
            pooled = estimate(clicks_RSAK.sum(axis=1, keepdims=True), shown_RSAK.sum(axis=1, keepdims=True))
            theta_R = estimate(clicks_RSAK, shown_RSAK).theta_H
            columns.append(np.stack([theta_R, pooled.theta_H]))
        parts.append(np.stack(columns, axis=-1))
    theta_RS, pooled_RS = np.concatenate(parts, axis=1)
    return theta_RS, pooled_RS
