"""Small SVG pictures for a report: reliability, a loss curve and shares, in colours that the page's style names."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 280, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # margins for the axes' numbers
Z_95 = 1.96

Bin = tuple[float, float, int]  # mean probability, click rate, rows


def reliability_plot(bins: Sequence[Bin], name: str) -> str:
    """Click rate against predicted probability, with 95 % intervals; on the diagonal a prediction is right."""
    intervals = [wilson(rate, rows) for _, rate, rows in bins]
    top = nice_top(max([mean for mean, _, _ in bins] + [high for _, high in intervals]))
    axes = Axes(x_top=top, y_top=top)
    marks = [
        f'<line class="whisker" x1="{axes.x(mean)}" x2="{axes.x(mean)}" y1="{axes.y(low)}" y2="{axes.y(high)}"/>'
        f'<circle class="point" cx="{axes.x(mean)}" cy="{axes.y(rate)}" r="3">'
        f"<title>{escape(f'predicted {mean:.4f}, clicked {rate:.4f}, {rows} rows')}</title></circle>"
        for (mean, rate, rows), (low, high) in zip(bins, intervals, strict=True)
    ]
    right = f'<line class="right" x1="{axes.x(0)}" y1="{axes.y(0)}" x2="{axes.x(top)}" y2="{axes.y(top)}"/>'
    return _svg(f"Reliability of {name}", [axes.drawn("predicted probability", "click rate"), right, *marks])


def loss_plot(points: Sequence[tuple[int, float]]) -> str:
    """Mean loss against steps; its axis starts where the lowest is, since the first step's is far above the rest."""
    losses = [loss for _, loss in points]
    low, high = min(losses), sorted(losses)[-(1 + len(losses) // 50)]
    spread = max(high - low, 1e-6)
    bottom, top = low - 0.05 * spread, high + 0.05 * spread
    axes = Axes(x_top=max(step for step, _ in points), y_bottom=bottom, y_top=top)
    path = " ".join(f"{axes.x(step)},{axes.y(min(loss, top))}" for step, loss in points)
    return _svg("Training loss", [axes.drawn("step", "loss"), f'<polyline class="curve" points="{path}"/>'])


def share_bar(shares: Sequence[float]) -> str:
    """Parts of a whole, side by side; their numbers stand below it, not in it."""
    parts, start = [], 0.0
    for index, share in enumerate(shares):
        title = f"<title>{escape(f'expert {index}: {100 * share:.1f} %')}</title>"
        parts.append(
            f'<rect class="expert{index % 8}" x="{start:.3f}" width="{100 * share:.3f}" height="10">{title}</rect>'
        )
        start += 100 * share
    return f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img">{"".join(parts)}</svg>'


class Axes:
    """From 0, or from `y_bottom`, to the tops."""

    def __init__(self, *, x_top: float, y_top: float, y_bottom: float = 0.0) -> None:
        self.x_top, self.y_top, self.y_bottom = x_top, y_top, y_bottom

    def x(self, value: float) -> str:
        return f"{LEFT + value / self.x_top * (WIDTH - LEFT - RIGHT):.1f}"

    def y(self, value: float) -> str:
        share = (value - self.y_bottom) / (self.y_top - self.y_bottom)
        return f"{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}"

    def drawn(self, x_name: str, y_name: str) -> str:
        foot, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
        marks = [
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{foot}" y2="{foot}"/>',
            f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{foot}"/>',
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>',
            f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">'
            f"{escape(y_name)}</text>",
        ]
        for part in (0.0, 0.5, 1.0):
            value = self.y_bottom + part * (self.y_top - self.y_bottom)
            marks.append(f'<text x="{LEFT - 4}" y="{self.y(value)}" dy="4" text-anchor="end">{short(value)}</text>')
            across = part * self.x_top
            anchor = "end" if part == 1.0 else "middle"
            marks.append(f'<text x="{self.x(across)}" y="{foot + 14}" text-anchor="{anchor}">{short(across)}</text>')
        return "".join(marks)


def wilson(rate: float, rows: int) -> tuple[float, float]:
    """95 % interval of a share.

    Source:
        Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    square = Z_95 * Z_95
    centre = (rate + square / (2 * rows)) / (1 + square / rows)
    half = Z_95 * math.sqrt(rate * (1 - rate) / rows + square / (4 * rows * rows)) / (1 + square / rows)
    return max(0.0, centre - half), min(1.0, centre + half)


def nice_top(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten, and no more than 1."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(min(1.0, next((step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value), 10 * power)))


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.3g}"


def _svg(title: str, parts: Sequence[str]) -> str:
    frame = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return f"{frame}{''.join(parts)}</svg>"
