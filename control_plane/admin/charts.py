"""Charts as inline SVG: no script, no style attribute (the page's CSP forbids both), colours from the style sheet.

Every chart carries its own sentence for those who cannot see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from control_plane.admin import wording
from control_plane.domain.split import FULL_TRAFFIC_BP

TICK_WIDTH = 84  # of a margin's words, in user units
TILE_WIDTH = 320  # user units of charts in a tile; about one CSS pixel each
LEAST_SPAN = 0.01  # relative effect: an axis narrower than ±1 % would make noise look like news
MIN_BIN_IMPRESSIONS = 20  # a bin with fewer says nothing and would stretch the axes


@dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """Where harm and safety begin on the axis of an effect; `harm` lies on the bad side, None where not judged."""

    harm: float | None
    safe: float | None
    is_two_sided: bool = False  # too high is as bad as too low


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectPoint:
    """An effect with its interval at one look."""

    at_ms: int
    effect: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityPoint:
    """Mean predicted and observed click rate of one score bin."""

    predicted: float
    observed: float
    impressions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPoint:
    """A relative effect with its interval in one group of scores."""

    label: str
    effect: float
    lower: float
    upper: float


def traffic_bar(candidate_bp: int) -> Markup:
    """Stable's and the candidate's share side by side."""
    words = f"stable {wording.share(FULL_TRAFFIC_BP - candidate_bp)}, candidate {wording.share(candidate_bp)}"
    edge = 100 * (1 - candidate_bp / FULL_TRAFFIC_BP)
    gap = 0.4 if 0 < candidate_bp < FULL_TRAFFIC_BP else 0.0
    body = f'<rect class="c-stable" x="0" y="0" width="{max(edge - gap, 0):.2f}" height="8"/>'
    if candidate_bp:
        width = max(100 - edge, 0.6)
        body += f'<rect class="c-candidate" x="{100 - width:.2f}" y="0" width="{width:.2f}" height="8"/>'
    return _svg("traffic-bar", 100, 8, words, body, stretches=True)


def interval_band(
    *,
    effect: float | None,
    lower: float | None,
    upper: float | None,
    margins: Margins,
    name: str,
    is_small: bool = False,
) -> Markup:
    """An effect and its interval against the two margins: all of it inside `safe` or all of it beyond `harm` decides.

    The small form has no words in it, for rows of a table.
    """
    axis = _axis_for(effect, lower, upper, margins)
    body = _zones(axis, margins)
    body += f'<line class="c-zero" x1="{axis.x(0):.1f}" y1="16" x2="{axis.x(0):.1f}" y2="48"/>'
    body += _margin_ticks(axis, margins, has_words=not is_small)
    words = f"{name}: no estimate yet"
    if effect is not None:
        if lower is not None and upper is not None:
            body += _whisker(axis, lower, upper)
        body += f'<circle class="c-point" cx="{axis.x(effect):.1f}" cy="32" r="5"/>'
        words = (
            f"{name}: effect {wording.percent(effect)}, interval {wording.percent(lower)} to {wording.percent(upper)}; "
            f"harm margin {wording.percent(margins.harm)}, safe margin {wording.percent(margins.safe)}"
        )
    top, height = (14, 36) if is_small else (0, 64)
    return _svg("interval-band", TILE_WIDTH, height, words, body, top=top)


def progress_bar(value: float, threshold: float, *, kind: str, words: str) -> Markup:
    """How far a log e-value is on its way to its threshold; `kind` is 'harm' or 'safe'."""
    reached = min(max(value / threshold, 0.0), 1.0) if threshold > 0 else 0.0
    body = '<rect class="c-track" x="0" y="0" width="100" height="6"/>'
    body += f'<rect class="c-{kind}" x="0" y="0" width="{reached * 100:.2f}" height="6"/>'
    return _svg("progress-bar", 100, 6, words, body, stretches=True)


def effect_over_time(points: Sequence[EffectPoint], *, margins: Margins, name: str) -> Markup:
    """How an effect and its interval moved from look to look; a single look is no line yet."""
    if len(points) < 2:
        return Markup()
    low, high = _range_over_time(points, margins)
    xs = _spread([point.at_ms for point in points])
    height, top = 48, 4

    def y(effect: float) -> float:
        clipped = min(max(effect, low), high)
        return top + (high - clipped) / (high - low) * (height - 2 * top)

    uppers = [f"{x:.1f},{y(point.upper):.1f}" for x, point in zip(xs, points, strict=True)]
    lowers = [f"{x:.1f},{y(point.lower):.1f}" for x, point in zip(xs, points, strict=True)]
    line = " ".join(f"{x:.1f},{y(point.effect):.1f}" for x, point in zip(xs, points, strict=True))
    body = f'<polygon class="c-band" points="{" ".join(uppers + lowers[::-1])}"/>'
    for kind, margin in (("harm", margins.harm), ("safe", margins.safe)):
        if margin is not None and low <= margin <= high:
            body += (
                f'<line class="c-margin-{kind}" x1="0" y1="{y(margin):.1f}" x2="{TILE_WIDTH}" y2="{y(margin):.1f}"/>'
            )
    body += f'<line class="c-zero" x1="0" y1="{y(0):.1f}" x2="{TILE_WIDTH}" y2="{y(0):.1f}"/>'
    body += f'<polyline class="c-line" points="{line}"/>'
    body += f'<circle class="c-point" cx="{xs[-1]:.1f}" cy="{y(points[-1].effect):.1f}" r="3"/>'
    first, last = wording.percent(points[0].effect), wording.percent(points[-1].effect)
    words = f"{name} over {len(points)} looks: from {first} to {last}"
    return _svg("effect-over-time", TILE_WIDTH, height, words, body)


def reliability_plot(stable: Sequence[ReliabilityPoint], candidate: Sequence[ReliabilityPoint]) -> Markup:
    """Predicted against observed click rate per score bin, both axes logarithmic; on the diagonal a score is true."""
    stable, candidate = _tellable(stable), _tellable(candidate)
    rates = [rate for point in (*stable, *candidate) for rate in (point.predicted, point.observed) if rate > 0]
    if not rates:
        return Markup()
    low = math.floor(math.log10(min(rates)) * 2) / 2
    high = math.ceil(math.log10(max(rates)) * 2) / 2
    plot = _LogPlot(low=low, high=max(high, low + 0.5))
    body = plot.grid()
    body += _reliability_series(plot, stable, "stable") + _reliability_series(plot, candidate, "candidate")
    words = (
        f"Calibration: predicted against observed click rate in {len(candidate)} score bins of the candidate "
        f"and {len(stable)} of stable; the table below has the numbers"
    )
    return _svg("reliability-plot", plot.WIDTH, plot.HEIGHT, words, body)


def by_group(points: Sequence[GroupPoint], *, name: str) -> Markup:
    """Effects with their intervals side by side, around a line at none; far wider intervals are cut off."""
    if not points:
        return Markup()
    width, height, left, bottom = 440, 260, 58, 48
    step = (width - left - 8) / len(points)
    ticks = _percent_ticks(max(_span_of(points), LEAST_SPAN))
    high = ticks[-1]

    def y(effect: float) -> float:
        clipped = min(max(effect, -high), high)
        return 12 + (high - clipped) / (2 * high) * (height - 12 - bottom)

    body = ""
    for tick in ticks:
        body += f'<line class="{"c-zero" if tick == 0 else "c-grid"}" x1="{left}" y1="{y(tick):.1f}" '
        body += f'x2="{width - 8}" y2="{y(tick):.1f}"/>'
        label = wording.percent(tick, digits=0 if high >= 0.02 else 1) if tick else "0 %"
        body += f'<text class="c-tick" x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{label}</text>'
    for index, point in enumerate(points):
        x = left + (index + 0.5) * step
        tip = f"<title>{escape(point.label)}: {wording.percent(point.effect)}, interval "
        tip += f"{wording.percent(point.lower)} to {wording.percent(point.upper)}</title>"
        body += (
            f'<line class="c-interval" x1="{x:.1f}" y1="{y(point.upper):.1f}" x2="{x:.1f}" y2="{y(point.lower):.1f}"/>'
        )
        body += f'<circle class="c-point" cx="{x:.1f}" cy="{y(point.effect):.1f}" r="5">{tip}</circle>'
        body += f'<text class="c-tick" x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">'
        body += f"{escape(point.label)}</text>"
    body += f'<text class="c-axis" x="{(left + width) / 2:.1f}" y="{height - 8}" text-anchor="middle">'
    body += "tenths of stable’s scores, low to high</text>"
    words = f"{name} in {len(points)} groups of scores, with intervals; the table beside it has the numbers"
    return _svg("by-group", width, height, words, body)


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float

    def x(self, effect: float) -> float:
        clipped = min(max(effect, self.low), self.high)
        return 8 + (clipped - self.low) / (self.high - self.low) * (TILE_WIDTH - 16)


def _axis_for(effect: float | None, lower: float | None, upper: float | None, margins: Margins) -> _Axis:
    """An axis that shows both margins and the interval, and an interval far wider than the margins cut off."""
    marks = [abs(margin) for margin in (margins.harm, margins.safe) if margin is not None]
    widest = max([*marks, LEAST_SPAN])
    seen = [abs(value) for value in (effect, lower, upper) if value is not None]
    span = min(max([*seen, widest]), 3 * widest) * 1.15
    span = max(span, abs(effect or 0.0) * 1.15)
    return _Axis(-span, span)


def _zones(axis: _Axis, margins: Margins) -> str:
    """The bad side hatched, so that it does not speak by colour alone."""
    if margins.safe is None:
        return f'<rect class="c-zone" x="8" y="20" width="{TILE_WIDTH - 16}" height="24"/>'
    bounds = [(axis.low, margins.safe) if margins.safe < 0 else (margins.safe, axis.high)]
    if margins.is_two_sided:
        bounds = [(axis.low, -abs(margins.safe)), (abs(margins.safe), axis.high)]
    zones = f'<rect class="c-zone" x="8" y="20" width="{TILE_WIDTH - 16}" height="24"/>'
    for start, end in bounds:
        x, width = axis.x(start), axis.x(end) - axis.x(start)
        place = f'x="{x:.1f}" y="20" width="{width:.1f}" height="24"'
        zones += f'<rect class="c-zone-bad" {place}/><rect fill="url(#hatch)" {place}/>'
    return zones


def _margin_ticks(axis: _Axis, margins: Margins, *, has_words: bool) -> str:
    ticks = ""
    for kind, margin, y in (("harm", margins.harm, 12), ("safe", margins.safe, 60)):
        if margin is None:
            continue
        for side in (margin, -margin) if margins.is_two_sided else (margin,):
            x = axis.x(side)
            is_crowded = side != margin and abs(x - axis.x(margin)) < TICK_WIDTH
            ticks += f'<line class="c-margin-{kind}" x1="{x:.1f}" y1="16" x2="{x:.1f}" y2="48"/>'
            if is_crowded or not has_words:
                continue
            anchor = "start" if x < 40 else "end" if x > TILE_WIDTH - 40 else "middle"
            ticks += f'<text class="c-tick" x="{x:.1f}" y="{y}" text-anchor="{anchor}">'
            ticks += f"{kind} {escape(wording.percent(side))}</text>"
    return ticks


def _whisker(axis: _Axis, lower: float, upper: float) -> str:
    start, end = axis.x(lower), axis.x(upper)
    whisker = f'<line class="c-interval" x1="{start:.1f}" y1="32" x2="{end:.1f}" y2="32"/>'
    for value, x, tip in ((lower, start, 6), (upper, end, -6)):
        if axis.low <= value <= axis.high:
            whisker += f'<line class="c-interval" x1="{x:.1f}" y1="27" x2="{x:.1f}" y2="37"/>'
        else:
            whisker += f'<polyline class="c-interval" points="{x + tip:.1f},27 {x:.1f},32 {x + tip:.1f},37"/>'
    return whisker


def _range_over_time(points: Sequence[EffectPoint], margins: Margins) -> tuple[float, float]:
    """Wide enough for every effect and the last interval; the first, widest ones are cut."""
    last = points[-1]
    half = max(abs(last.lower), abs(last.upper), LEAST_SPAN, *(abs(point.effect) for point in points))
    marks = [abs(margin) for margin in (margins.harm, margins.safe) if margin is not None]
    near = [mark for mark in marks if mark <= 2 * half]
    half = max([half, *near]) * 1.1
    return -half, half


def _spread(times_ms: Sequence[int]) -> list[float]:
    first, last = times_ms[0], times_ms[-1]
    length = max(last - first, 1)
    return [4 + (at - first) / length * (TILE_WIDTH - 8) for at in times_ms]


def _span_of(points: Sequence[GroupPoint]) -> float:
    """Every effect, and every interval that is not far wider than most."""
    reaches = sorted(max(abs(point.lower), abs(point.upper)) for point in points)
    usual = reaches[len(reaches) // 2]
    return max([*(abs(point.effect) for point in points), *(reach for reach in reaches if reach <= 2.5 * usual)])


def _percent_ticks(span: float) -> list[float]:
    """Five round values around 0 that reach `span`."""
    size = 10.0 ** math.floor(math.log10(span / 2))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if 2 * factor * size >= span * 0.999)
    return [step * index for index in range(-2, 3)]


@dataclass(frozen=True, slots=True)
class _LogPlot:
    """A square of two decimal-logarithmic axes over one range."""

    low: float
    high: float

    WIDTH = 440
    HEIGHT = 360
    LEFT, RIGHT, TOP, BOTTOM = 58, 16, 12, 48

    def x(self, rate: float) -> float:
        return self.LEFT + self._part(rate) * (self.WIDTH - self.LEFT - self.RIGHT)

    def y(self, rate: float) -> float:
        return self.HEIGHT - self.BOTTOM - self._part(rate) * (self.HEIGHT - self.TOP - self.BOTTOM)

    def grid(self) -> str:
        left, right = self.x(10**self.low), self.x(10**self.high)
        bottom, top = self.y(10**self.low), self.y(10**self.high)
        lines = ""
        for exponent in range(math.ceil(self.low), math.floor(self.high) + 1):
            for factor in (1, 3):
                rate = factor * 10.0**exponent
                if not 10**self.low <= rate <= 10**self.high * 1.001:
                    continue
                x, y, label = self.x(rate), self.y(rate), f"{rate * 100:g} %"
                lines += f'<line class="c-grid" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>'
                lines += f'<line class="c-grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>'
                lines += f'<text class="c-tick" x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{label}</text>'
                lines += f'<text class="c-tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        lines += f'<line class="c-diagonal" x1="{left:.1f}" y1="{bottom:.1f}" x2="{right:.1f}" y2="{top:.1f}"/>'
        middle = (top + bottom) / 2
        lines += f'<text class="c-axis" x="{(left + right) / 2:.1f}" y="{self.HEIGHT - 10}" text-anchor="middle">'
        lines += "predicted click rate</text>"
        lines += f'<text class="c-axis" x="12" y="{middle:.1f}" text-anchor="middle" '
        return lines + f'transform="rotate(-90 12 {middle:.1f})">observed click rate</text>'

    def _part(self, rate: float) -> float:
        part = (math.log10(max(rate, 1e-9)) - self.low) / (self.high - self.low)
        return min(max(part, 0.0), 1.0)


def _tellable(points: Sequence[ReliabilityPoint]) -> list[ReliabilityPoint]:
    return [point for point in points if point.impressions >= MIN_BIN_IMPRESSIONS and point.observed > 0]


def _reliability_series(plot: _LogPlot, points: Sequence[ReliabilityPoint], arm: str) -> str:
    """Circles for the candidate and squares for stable, larger where there are more impressions."""
    series = ""
    most = max((point.impressions for point in points), default=1)
    for point in points:
        x, y, size = plot.x(point.predicted), plot.y(point.observed), 3 + 4 * math.sqrt(point.impressions / most)
        tip = f"<title>{arm}: predicted {point.predicted:.3%}, observed {point.observed:.3%}, "
        tip += f"{wording.count(point.impressions)} impressions</title>"
        if arm == "candidate":
            series += f'<circle class="c-dot-{arm}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}">{tip}</circle>'
        else:
            corner = f'x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:.1f}" height="{2 * size:.1f}"'
            series += f'<rect class="c-dot-{arm}" {corner}>{tip}</rect>'
    return series


def _svg(kind: str, width: int, height: int, words: str, body: str, *, stretches: bool = False, top: int = 0) -> Markup:
    ratio = ' preserveAspectRatio="none"' if stretches else ""
    frame = f'viewBox="0 {top} {width} {height}"{ratio} role="img" aria-label="{escape(words)}"'
    return Markup(f'<svg class="chart {kind}" {frame}>{body}</svg>')
