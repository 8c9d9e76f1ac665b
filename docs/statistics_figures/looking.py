"""Pictures of looking again and again: who cries wolf, what one bad candidate looks like, and what waiting costs.

Letters of the shapes: R runs, L looks, A arms, K buckets.
"""

import math

import numpy as np
from matplotlib.axes import Axes

from benchmarks.guardrail_bars import crowd, delays, false_alarms
from benchmarks.guardrail_bars.outcome import quantile
from benchmarks.guardrail_bars.rules import ALPHA, LOG_BAR, MARGIN, PLAN, estimate, log_e_harm, passes_gates
from benchmarks.guardrail_bars.scenarios import nothing
from control_plane.guardrails.estimate import FloatArray, LogRatios
from control_plane.guardrails.evalue import half_width, log_e, z_of_t
from docs.statistics_figures.drawing import AMBER, BLUE, GREEN, GREY, INK, ORANGE, PURPLE, above, canvas, style, svg
from docs.statistics_figures.table import markdown, signed, thousands

LOOKS, ALARM_RUNS = 1_000, 300
RULES = {  # of `false_alarms.NAMES`: colour, line, where its name stands beside the line
    "z_impressions": ("z test on impressions", ORANGE, "-"),
    "z_users": ("z test, variance by user", AMBER, "--"),
    "msprt": ("mSPRT on impressions", PURPLE, "-."),
    "ours": ("Surefoot", BLUE, "-"),
}

ONE_RUN_SEED, ONE_RUN_LOOKS, ONE_RUN_EFFECT = 1, 120, -0.05
NEXT_SMALL, LAST = 0.10, 0.03  # stage margins of CTR before 5 % and before 100 %
LEAST_E, LARGEST_E = 1e-2, 1e4  # shown

DELAY_RUNS = {-0.03: 120, -0.05: 240, -0.10: 400}
DELAY_RULES = {
    delays.OURS: ("Surefoot", BLUE),
    "msprt_users": ("mSPRT, variance by user", PURPLE),
    "gbstats": ("gbstats, sequential", GREEN),
}


def false_alarm_curves() -> tuple[str, dict[str, str]]:
    found = false_alarms.newcomers(runs=ALARM_RUNS, looks=LOOKS)
    look_L = np.arange(1, LOOKS + 1)
    with style():
        figure, axes = canvas(3.7)
        for name, (label, colour, line) in RULES.items():
            share_L = (found[name, 1].at_R[:, None] <= look_L).mean(axis=0)
            axes.step(look_L, 100 * share_L, line, where="post", color=colour)
            axes.annotate(
                label,
                (LOOKS, 100 * share_L[-1]),
                (6, -3),
                textcoords="offset points",
                annotation_clip=False,
            )
        axes.axhline(100 * ALPHA, color=GREY, linewidth=1, linestyle=":")
        axes.annotate("promised: 5 %", (1.1, 1.6), color=GREY)
        axes.set_xscale("log")
        axes.set_xlim(1, LOOKS)
        axes.set_xticks([1, 10, 100, 1_000], ["1", "10", "100", "1000"])
        axes.set_ylim(0)
        axes.set_xlabel("looks")
        axes.set_ylabel("runs with a false alarm so far, %")
        return svg(figure), {}


def one_run() -> tuple[str, dict[str, str]]:
    """A candidate 5 % worse, half and half, up to twice the fixed horizon."""
    rng = np.random.default_rng(ONE_RUN_SEED)
    step = round(2 * crowd.fixed_horizon(ONE_RUN_EFFECT, MARGIN) / ONE_RUN_LOOKS)
    clicks_RSAK, shown_RSAK = nothing(1), nothing(1)
    looks = []
    for _ in range(ONE_RUN_LOOKS):
        visit = crowd.draw_visit(rng, 1, 2 * step, effect=ONE_RUN_EFFECT)
        clicks_RSAK[:, 0] += visit.clicks_RAK()
        shown_RSAK[:, 0] += visit.shown_RAK()
        looks.append(estimate(clicks_RSAK, shown_RSAK))
    users_L: FloatArray = step * np.arange(1, ONE_RUN_LOOKS + 1, dtype=np.float64)
    theta_L, se_L = (np.array([getattr(look, name)[0] for look in looks]) for name in ("theta_H", "se_H"))
    degrees_L = np.array([look.buckets_H[0] - 1.0 for look in looks])
    width_L = half_width(se_L, degrees_L, alpha=ALPHA)
    with style():
        figure, top, bottom = above(5.6)
        top.fill_between(
            users_L, _points(theta_L - width_L), _points(theta_L + width_L), color=BLUE, alpha=0.2, linewidth=0
        )
        top.plot(users_L, _points(theta_L), color=BLUE)
        top.set_ylim(-22, 8)
        top.set_ylabel("clicks per impression, %")
        top.set_title("estimate and always-valid interval; the truth is −5 %")
        for level, name, colour in (
            (-100 * MARGIN, "harm margin, −1 %", ORANGE),
            (-100 * NEXT_SMALL, "safe margin if 5 % of users are next: −10 %", GREEN),
            (100 * ONE_RUN_EFFECT, "", INK),
        ):
            top.axhline(level, color=colour, linewidth=1, linestyle="--" if colour != INK else ":")
            top.annotate(name, (users_L[-1], level + 0.4), color=colour, ha="right")
        e_values = {
            "harm: worse than −1 %": (ORANGE, "-", [_harm(look) for look in looks]),
            "safety: better than −10 %": (GREEN, "-", [_safety(look, NEXT_SMALL) for look in looks]),
            "safety: better than −3 %": (PURPLE, "--", [_safety(look, LAST) for look in looks]),
        }
        crossings = _draw_e_values(bottom, users_L, e_values)
        return svg(figure), {"one-run": _one_run_table(crossings)}


def _points(log_ratio: FloatArray) -> FloatArray:
    return np.asarray(100 * np.expm1(log_ratio))


def _harm(look: LogRatios) -> float:
    return float(log_e_harm(look)[0])


def _safety(look: LogRatios, margin: float) -> float:
    if not passes_gates(look)[0]:
        return 0.0
    z = z_of_t((look.theta_H - math.log1p(-margin)) / look.se_H, (look.buckets_H - 1).astype(np.float64))
    return float(log_e(z, look.se_H, PLAN.taus, PLAN.tau_weights)[0])


def _draw_e_values(
    axes: Axes, users_L: FloatArray, e_values: dict[str, tuple[str, str, list[float]]]
) -> dict[str, float | None]:
    """First crossings of 20, in users per arm."""
    crossings: dict[str, float | None] = {}
    for name, (colour, line, log_e_L) in e_values.items():
        axes.plot(users_L, np.exp(log_e_L), line, color=colour, label=name)
        above_bar = np.flatnonzero(np.array(log_e_L) >= LOG_BAR)
        crossings[name] = float(users_L[above_bar[0]]) if above_bar.size else None
        if above_bar.size:
            axes.plot(users_L[above_bar[0]], 1 / ALPHA, "o", color=colour, markersize=8)
    axes.axhline(1 / ALPHA, color=INK, linewidth=1, linestyle=":")
    axes.annotate("20: decided", (users_L[-1], 1.15 / ALPHA), ha="right", va="bottom")
    axes.set_yscale("log")
    axes.set_ylim(LEAST_E, LARGEST_E)
    axes.set_xlim(0, users_L[-1])
    axes.set_ylabel("e-value")
    axes.set_xlabel("users per arm")
    axes.legend(loc="upper left")
    return crossings


def _one_run_table(crossings: dict[str, float | None]) -> str:
    horizon = crowd.fixed_horizon(ONE_RUN_EFFECT, MARGIN)
    rows = [[name, thousands(users) if users else "never"] for name, users in crossings.items()]
    rows.append(["for comparison: fixed-horizon test of harm", thousands(horizon)])
    return markdown(["e-value reaches 20", "users per arm"], rows)


def delay_distributions() -> tuple[str, dict[str, str]]:
    """How many fixed horizons until the alarm, by effect."""
    found = {
        effect: {
            name: at_R / crowd.fixed_horizon(effect, MARGIN)
            for name, at_R in delays.delays(effect, runs=runs).items()
            if name in DELAY_RULES
        }
        for effect, runs in DELAY_RUNS.items()
    }
    with style():
        figure, axes = canvas(3.6)
        ticks = []
        for place, (effect, delay_of) in enumerate(found.items()):
            for offset, (name, (label, colour)) in zip((-0.25, 0.0, 0.25), DELAY_RULES.items(), strict=True):
                _draw_delay(axes, place + offset, delay_of[name], colour, label if place == 0 else "")
            ticks.append(f"{signed(effect)}\n{thousands(crowd.fixed_horizon(effect, MARGIN))} users")
        axes.set_yticks(range(len(found)), ticks)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.axvline(1.0, color=INK, linewidth=1, linestyle=":")
        axes.set_xlim(0, 3)
        axes.set_xlabel("users per arm at the alarm, over those of the fixed-horizon test")
        figure.legend(loc="outside upper center", ncols=3)
        return svg(figure), {}


def _draw_delay(axes: Axes, place: float, delay_R: FloatArray, colour: str, label: str) -> None:
    """Middle 80 % as a line, middle half as a bar, the median as a dot."""
    low, quarter, middle, three_quarters, high = (quantile(delay_R, part) for part in (0.1, 0.25, 0.5, 0.75, 0.9))
    axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
    axes.plot([quarter, three_quarters], [place, place], color=colour, linewidth=7, alpha=0.4, solid_capstyle="butt")
    axes.plot([middle], [place], "o", color=colour, markersize=7, label=label)
