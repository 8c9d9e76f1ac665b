"""Plots of a rehearsal as SVG. The only module that needs matplotlib: `pip install surefoot[report]`."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.rehearsal.results import Result
from control_plane.rehearsal.run import Ending, Run
from control_plane.rehearsal.scenarios import EQUAL
from control_plane.rehearsal.wording import ENDINGS

COLOURS = {  # Okabe and Ito 2008: told apart with any colour vision
    Ending.SHIPPED: "#0072B2",
    Ending.ROLLED_BACK: "#D55E00",
    Ending.HELD: "#E69F00",
    Ending.TIMED_OUT: "#999999",
}
INK, FAINT = "#1a1a1a", "#d9d9d9"
SETTINGS: Any = {  # matplotlib's stubs want each key typed on its own
    "svg.hashsalt": "surefoot",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
}
WIDTH, ROW = 8.6, 0.34  # inches
HOUR = 1 / 24  # the shortest delay that a logarithmic axis shows


def outcomes(results: Sequence[Result]) -> str:
    """What became of the runs of each scenario."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _figure(1.1 + ROW * len(results))
        left_N = np.zeros(len(results))
        for ending in Ending:
            share_N = np.array([100 * result.endings[ending].value for result in results])
            axes.barh(
                range(len(results)),
                share_N,
                left=left_N,
                color=COLOURS[ending],
                label=ENDINGS[ending].removeprefix("was "),
                height=0.7,
            )
            left_N += share_N
        _name_rows(axes, results)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of runs, %")
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        return _svg(figure)


def ramp(results: Sequence[Result]) -> str:
    """The candidate's share over time if it is as good as stable: the median run, and the middle 80 %."""
    runs = next(result.runs for result in results if result.scenario.name == EQUAL)
    day_D = np.linspace(0, max(run.days for run in runs), 400)
    share_ND = np.array([_share_at(run, day_D) for run in runs])
    low_D, middle_D, high_D = np.quantile(share_ND, [0.1, 0.5, 0.9], axis=0, method="inverted_cdf")
    with mpl.rc_context(SETTINGS):
        figure, axes = _figure(3.2)
        axes.fill_between(day_D, low_D, high_D, step="post", color="#56B4E9", alpha=0.35, label="middle 80 % of runs")
        axes.step(day_D, middle_D, where="post", color=COLOURS[Ending.SHIPPED], linewidth=2, label="median run")
        axes.set_ylim(0, 104)
        axes.set_xlim(0, day_D[-1])
        axes.set_xlabel("days since the start")
        axes.set_ylabel("candidate's share of traffic, %")
        axes.grid(color=FAINT)
        axes.legend(loc="upper left", frameon=False)
        return _svg(figure)


def delays(results: Sequence[Result]) -> str:
    """How long harm lasts before it is taken off; empty if nothing was."""
    caught = [result for result in results if result.detection_days is not None and result.scenario.name != EQUAL]
    if not caught:
        return ""
    with mpl.rc_context(SETTINGS):
        figure, axes = _figure(1.0 + ROW * len(caught))
        for row, result in enumerate(caught):
            found = result.detection_days
            if found is None:
                continue
            low, middle, high = (max(day, HOUR) for day in (found.tenth, found.median, found.ninetieth))
            axes.plot([low, high], [row, row], color=COLOURS[Ending.ROLLED_BACK], linewidth=5, alpha=0.35)
            axes.plot([middle], [row], "o", color=COLOURS[Ending.ROLLED_BACK], markersize=7)
        _name_rows(axes, caught)
        axes.set_xscale("log")
        axes.set_xlim(HOUR * 0.8, 35)
        axes.set_xticks([HOUR, 0.25, 1, 3, 7, 14, 30], ["in shadow", "6 hours", "1 day", "3", "7", "14", "30 days"])
        axes.minorticks_off()
        axes.set_xlabel("from first weight to rollback: median and middle 80 % of runs")
        axes.grid(axis="x", color=FAINT)
        return _svg(figure)


def costs(results: Sequence[Result], *, days: float) -> str:
    """Clicks lost under the plan beside those lost without one; empty if no scenario loses any."""
    losing = [result for result in results if result.lost_per_day["clicks"] > 0 and result.lost["clicks"].mean > 0]
    if not losing:
        return ""
    with mpl.rc_context(SETTINGS):
        figure, axes = _figure(1.2 + 1.6 * ROW * len(losing))
        row_N = np.arange(len(losing))
        under_N = np.array([result.lost["clicks"].mean for result in losing])
        error_N = np.array([2 * (result.lost["clicks"].mean_error or 0.0) for result in losing])
        without_N = np.array([result.lost_per_day["clicks"] * days for result in losing])
        whisker = {"ecolor": INK, "capsize": 3}
        low_N = np.minimum(error_N, under_N * 0.95)
        axes.barh(
            row_N - 0.2,
            under_N,
            0.38,
            color="#009E73",
            label="under this plan",
            xerr=[low_N, error_N],
            error_kw=whisker,
        )
        axes.barh(row_N + 0.2, without_N, 0.38, color="#CC79A7", label=f"shipped at once, noticed after {days:g} days")
        _name_rows(axes, losing)
        axes.set_xscale("log")
        axes.set_xlim(left=under_N.min() / 10)
        axes.set_xlabel("clicks lost, mean of the runs (whiskers: ± 2 standard errors)")
        axes.grid(axis="x", color=FAINT)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        return _svg(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _name_rows(axes: Axes, results: Sequence[Result]) -> None:
    axes.set_yticks(range(len(results)), [result.scenario.name for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _share_at(
    run: Run, day_D: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    starts, shares = np.array(run.path, dtype=np.float64).T
    shares = shares * 100 / FULL_TRAFFIC_BP
    return np.asarray(shares[np.searchsorted(starts, day_D, side="right") - 1])


def _svg(figure: Figure) -> str:
    """The bare element; equal figures are equal text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
