"""Bar 2: a whole rollout, 4 metrics × 9 segments, every hypothesis exactly as bad as its margin allows.

Letters of the shapes: R runs, G segments (the surface, then its view types), V view types, A arms, K buckets,
H hypotheses (metric × segment).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.outcome import Alarms, Measured, Row, chunked, joined, upper_bound
from benchmarks.guardrail_bars.rules import LOG_BAR, ONE_SIDED_Z, PLAN, log_e_harm, passes_gates, t_below
from control_plane.domain.moments import FIXED_POINT
from control_plane.domain.plan import Metric
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray, divide, effective_count, log_ratios
from control_plane.guardrails.evalue import log_mean

# Share of the surface's traffic, and click probability over the surface's.
VIEW_TYPES = ((0.3, 1.2), (0.2, 1.0), (0.15, 0.9), (0.1, 1.1), (0.1, 0.8), (0.07, 0.7), (0.05, 1.0), (0.03, 0.6))
GOOD_SHARE = 0.6  # of stable's clicks
HIDE_RATE = 0.004  # of impressions, gamma over users with shape 1
REVENUE_SHAPE = 0.5  # of one click's gamma revenue, mean 1 currency unit
NEWCOMERS = 256  # per look, both arms
MARGINS = {
    Metric.CTR: (0.01, 1),
    Metric.GOOD_CLICK_RATE: (0.015, 1),
    Metric.REVENUE_PER_IMPRESSION: (0.01, 1),
    Metric.HIDE_RATE: (0.03, -1),
}
SEGMENTS = 1 + len(VIEW_TYPES)


def measure(*, runs: int, looks: int) -> Measured:
    ours, naive = family(runs=runs, looks=looks)
    bound = upper_bound(ours.count, runs)
    what = f"{len(MARGINS) * SEGMENTS} hypotheses × {looks} looks: false rollback"
    rows = [
        Row(
            bar="2",
            what=f"{what}, mean of e-values",
            measured=f"{100 * ours.share:.1f} %",
            error=f"≤ {100 * bound:.1f} %",
            limit="≤ 5 %",
            holds=ours.share <= 0.05,
        ),
        Row(bar="2", what=f"{what}, any z test (variance by user)", measured=f"{100 * naive.share:.0f} %"),
    ]
    return Measured(
        rows=rows,
        figures={
            "family_false_rollback": ours.share,
            "family_false_rollback_upper95": bound,
            "family_false_rollback_z_users": naive.share,
        },
    )


def family(*, runs: int, looks: int) -> tuple[Alarms, Alarms]:
    """First alarms of the weighted mean of e-values, and of any one-sided z test."""
    ours, naive = [], []
    for count, rng in chunked("2 family", runs, 25):
        of_mean, of_any = Alarms(count), Alarms(count)
        for look, sums in enumerate(_traffic(rng, count, looks), start=1):
            log_e_RH, t_RH = _judged(sums)
            mean_R = np.array([log_mean(row, WEIGHTS) for row in log_e_RH.tolist()])
            of_mean.note(mean_R >= LOG_BAR, look)
            of_any.note(np.asarray((t_RH >= ONE_SIDED_Z).any(axis=1)), look)
        ours.append(of_mean)
        naive.append(of_any)
    return joined(ours), joined(naive)


def _weights() -> list[float]:
    """Half of the mean on the surface, half on its view types; the metrics alike."""
    surface, rest = 0.5 / len(MARGINS), 0.5 / len(MARGINS) / len(VIEW_TYPES)
    return [surface if segment == 0 else rest for _ in MARGINS for segment in range(SEGMENTS)]


WEIGHTS = _weights()


@dataclass(kw_only=True, slots=True, eq=False)
class _Sums:
    """Since the start, per view type."""

    shown_RVAK: IntArray
    click_RVAK: IntArray
    good_RVAK: IntArray
    hide_RVAK: IntArray
    revenue_RVAK: IntArray  # fixed point

    def numerator(self, metric: Metric) -> IntArray:
        match metric:
            case Metric.CTR:
                return self.click_RVAK
            case Metric.GOOD_CLICK_RATE:
                return self.good_RVAK
            case Metric.HIDE_RATE:
                return self.hide_RVAK
            case Metric.REVENUE_PER_IMPRESSION:
                return self.revenue_RVAK


def _traffic(rng: np.random.Generator, runs: int, looks: int) -> Iterator[_Sums]:
    """Each look brings users never seen before, spread over all view types."""
    shape = (runs, len(VIEW_TYPES), 2, NUM_BUCKETS)
    seen = [np.zeros(shape, dtype=np.int64) for _ in range(5)]
    for _ in range(looks):
        for sums, new in zip(seen, _visit(rng, runs), strict=True):
            sums += new
        shown, click, good, hide, revenue = seen
        yield _Sums(shown_RVAK=shown, click_RVAK=click, good_RVAK=good, hide_RVAK=hide, revenue_RVAK=revenue)


def _visit(rng: np.random.Generator, runs: int) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    users = crowd.draw_users(rng, runs, NEWCOMERS)
    is_candidate_RU = np.asarray(rng.random((runs, NEWCOMERS)) < 0.5)
    cell_RU = crowd.draw_cells(rng, is_candidate_RU)
    annoyance_RU = rng.standard_gamma(1.0, (runs, NEWCOMERS)) * HIDE_RATE
    rates = (users.activity_RU, users.activity_RU * users.taste_RU, users.activity_RU * annoyance_RU)
    shown_RAK, click_RAK, hide_RAK = (crowd.IMPRESSIONS * crowd.by_cell(cell_RU, rate_RU) for rate_RU in rates)
    traffic_V, appeal_V = (np.array(column)[:, None, None] for column in zip(*VIEW_TYPES, strict=True))
    click_RVAK = click_RAK[:, None] * traffic_V * appeal_V * _factor_A(Metric.CTR)
    hide_RVAK = rng.poisson(hide_RAK[:, None] * traffic_V * _factor_A(Metric.HIDE_RATE))
    good_share_A = GOOD_SHARE * _factor_A(Metric.GOOD_CLICK_RATE) / _factor_A(Metric.CTR)
    good_RVAK = rng.poisson(click_RVAK * good_share_A)
    clicks_RVAK = good_RVAK + rng.poisson(click_RVAK * (1 - good_share_A))
    passed_RVAK = rng.poisson(np.maximum(shown_RAK[:, None] * traffic_V - click_RVAK, 0.0))
    return passed_RVAK + clicks_RVAK, clicks_RVAK, good_RVAK, hide_RVAK, _revenue(rng, clicks_RVAK)


def _factor_A(metric: Metric) -> FloatArray:
    """The candidate's rate over stable's at the margin, arms on the last axis but one."""
    margin, direction = MARGINS[metric]
    factor_A = np.ones((len(Arm), 1))
    factor_A[Arm.CANDIDATE] = (1 - margin) ** direction
    return factor_A


def _revenue(rng: np.random.Generator, clicks_RVAK: IntArray) -> IntArray:
    """A sum of gammas is a gamma; as many units a click in both arms, so revenue falls as clicks do."""
    revenue_RVAK = np.zeros(clicks_RVAK.shape, dtype=np.int64)
    has_clicks_RVAK = clicks_RVAK > 0
    units = rng.standard_gamma(clicks_RVAK[has_clicks_RVAK] * REVENUE_SHAPE) / REVENUE_SHAPE
    revenue_RVAK[has_clicks_RVAK] = np.rint(units * FIXED_POINT).astype(np.int64)
    return revenue_RVAK


def _judged(sums: _Sums) -> tuple[FloatArray, FloatArray]:
    """Log e-values and one-sided t scores, (R, H), hypotheses in the order of the weights; 0 before their gates."""
    runs = len(sums.shown_RVAK)
    shown_N1AK, click_N1AK = _by_segment(sums.shown_RVAK), _by_segment(sums.click_RVAK)
    one_N = np.ones(len(shown_N1AK))
    clicks = log_ratios(click_N1AK, shown_N1AK, one_N)
    log_e_MN, t_MN = [], []
    for metric, (margin, direction) in MARGINS.items():
        value_N1AK = _by_segment(sums.numerator(metric))
        if metric is Metric.REVENUE_PER_IMPRESSION:
            totals = (sums_N1AK.sum(axis=(1, 2, 3)).astype(np.float64) for sums_N1AK in (value_N1AK, click_N1AK))
            found = log_ratios(value_N1AK, shown_N1AK, divide(*totals))
            is_open_N = passes_gates(clicks) & np.isfinite(found.theta_H) & _has_payers(value_N1AK)
        else:
            found = log_ratios(value_N1AK, shown_N1AK, one_N)
            is_open_N = passes_gates(found)
        log_e_MN.append(log_e_harm(found, margin, direction, is_open_R=is_open_N))
        t_MN.append(np.where(is_open_N, t_below(found, margin, direction), 0.0))
    return _by_run(log_e_MN, runs), _by_run(t_MN, runs)


def _by_segment(sums_RVAK: IntArray) -> IntArray:
    """The surface and its view types of every run, (R·G, 1, A, K)."""
    with_surface_RGAK = np.concatenate([sums_RVAK.sum(axis=1, keepdims=True), sums_RVAK], axis=1)
    return with_surface_RGAK.reshape(-1, 1, *with_surface_RGAK.shape[2:])


def _has_payers(value_N1AK: IntArray) -> BoolArray:
    """Whether stable's revenue is spread over enough of its buckets to be judged, as `Conversions.judges_harm`."""
    return np.asarray(effective_count(value_N1AK[:, 0, Arm.STABLE]) >= PLAN.min_buckets)


def _by_run(value_MN: list[FloatArray], runs: int) -> FloatArray:
    return np.concatenate([value_N.reshape(runs, SEGMENTS) for value_N in value_MN], axis=1)
