"""How every picture of docs/statistics.md looks: one palette for any colour vision, on a ground of its own.

The ground is opaque and light, since a picture does not know whether the page around it is dark.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Picture = Callable[[], tuple[str, dict[str, str]]]  # as SVG, and tables that say the same in numbers

# After Okabe and Ito 2008, green and purple darkened for text
BLUE, ORANGE, GREEN, PURPLE, AMBER = "#0072B2", "#D55E00", "#007F5F", "#AA4499", "#E69F00"
INK, GREY, FAINT, GROUND = "#1a1a1a", "#6b6b6b", "#d9d9d9", "#fcfcfa"
SETTINGS: Any = {  # matplotlib's stubs want each key typed on its own
    "svg.hashsalt": "surefoot",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "path.simplify": True,
}
WIDTH = 8.0  # inches


@contextmanager
def style() -> Iterator[None]:
    with mpl.rc_context(SETTINGS):
        yield


def canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def beside(height: float) -> tuple[Figure, Axes, Axes]:
    """Two panels side by side."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, left, right


def above(height: float) -> tuple[Figure, Axes, Axes]:
    """Two panels one above the other, of one horizontal axis."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    return figure, top, bottom


def svg(figure: Figure) -> str:
    """Equal figures are equal text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
