"""What runtimes' counts say of one operational metric: a rate with its trials, or a gauge."""

from dataclasses import dataclass

from control_plane.domain.latency import NUM_LATENCY_BINS, quantile_ms, slower_than
from control_plane.domain.moments import FIXED_POINT, ServingCounts
from control_plane.domain.plan import OperationalMetric

LARGEST = 2**62  # beyond it a count is no count
SLOW_SHARE = {
    OperationalMetric.LATENCY_P50: 0.5,
    OperationalMetric.LATENCY_P99: 0.01,
}  # a quantile is at most its limit where at most this share takes longer
READ_BY = {
    OperationalMetric.LATENCY_P50: ("batches",),
    OperationalMetric.LATENCY_P99: ("batches",),
    OperationalMetric.ERROR_RATE: ("calls", "error_shares"),
    OperationalMetric.TIMEOUT_RATE: ("calls", "timeout_shares"),
    OperationalMetric.BAD_SCORE_RATE: ("calls", "bad_score_shares"),
    OperationalMetric.FEATURE_COVERAGE: ("feature_samples", "features", "features_lost"),
    OperationalMetric.FEATURE_NULL_RATE: ("feature_samples", "feature_nulls", "feature_nulls_expected"),
    OperationalMetric.USER_CAP_SPLIT_RATE: ("batches", "split_batches"),
    OperationalMetric.GATE_ENTROPY: ("gate_samples", "gate_entropy"),
    OperationalMetric.DEDUP_RATIO: ("batches", "rows", "users_encoded"),
}
AT_MOST = {
    "error_shares": ("calls", FIXED_POINT),
    "timeout_shares": ("calls", FIXED_POINT),
    "bad_score_shares": ("calls", FIXED_POINT),
    "features_lost": ("features", 1),
    "feature_nulls": ("feature_samples", FIXED_POINT),
    "feature_nulls_expected": ("feature_samples", FIXED_POINT),
    "split_batches": ("batches", 1),
    "gate_entropy": ("gate_samples", FIXED_POINT),
}  # a sum is at most so many times a count


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """`hits` of `trials`, whole or in part: between `surely` and `possibly` where bins leave it open.

    `allowed` is the share that may hit; `value` is in the units of the plan's limit, None of nothing.
    """

    trials: int
    surely: float
    possibly: float
    allowed: float
    value: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauge:
    """Read as it stands; `samples` tell how much it rests on."""

    samples: int
    value: float | None


def impossible(metric: OperationalMetric, counts: ServingCounts) -> str:
    """Which of the counts that a metric reads no runtime can have counted, and why; empty if they are sound."""
    for name in READ_BY[metric]:
        if not _is_count(getattr(counts, name)):
            return f"{name} is {getattr(counts, name)!r}"
    for name in READ_BY[metric]:
        whole, most = AT_MOST.get(name, (name, 1))
        if getattr(counts, name) > getattr(counts, whole) * most:
            return f"{name} is more than {whole} allow"
    return _impossible_latencies(counts) if metric in SLOW_SHARE else ""


def measure(metric: OperationalMetric, limit: float, counts: ServingCounts) -> Rate | Gauge:
    """Read a metric from counts that are possible."""
    match metric:
        case OperationalMetric.LATENCY_P50 | OperationalMetric.LATENCY_P99:
            return _slow(SLOW_SHARE[metric], limit, counts)
        case OperationalMetric.ERROR_RATE:
            return _share(counts.calls, counts.error_shares / FIXED_POINT, limit)
        case OperationalMetric.TIMEOUT_RATE:
            return _share(counts.calls, counts.timeout_shares / FIXED_POINT, limit)
        case OperationalMetric.BAD_SCORE_RATE:
            return _share(counts.calls, counts.bad_score_shares / FIXED_POINT, limit)
        case OperationalMetric.USER_CAP_SPLIT_RATE:
            return _share(counts.batches, counts.split_batches, limit)
        case OperationalMetric.FEATURE_NULL_RATE:
            return _excess_nulls(limit, counts)
        case OperationalMetric.FEATURE_COVERAGE:
            return _gauge(counts.feature_samples, counts.features - counts.features_lost, counts.features)
        case OperationalMetric.GATE_ENTROPY:
            return _gauge(counts.gate_samples, counts.gate_entropy / FIXED_POINT, counts.gate_samples)
        case OperationalMetric.DEDUP_RATIO:
            return _gauge(counts.batches, counts.rows, counts.users_encoded)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _impossible_latencies(counts: ServingCounts) -> str:
    if len(counts.latency_bins) not in (0, NUM_LATENCY_BINS):
        return f"latency_bins are {len(counts.latency_bins)}, not {NUM_LATENCY_BINS}"
    if not all(map(_is_count, counts.latency_bins)):
        return "latency_bins are not all counts"
    if sum(counts.latency_bins) != counts.batches:
        return "latency_bins do not add up to batches"
    return ""


def _slow(allowed: float, limit_ms: float, counts: ServingCounts) -> Rate:
    slower = slower_than(counts.latency_bins, limit_ms)
    value = quantile_ms(counts.latency_bins, 1 - allowed)
    return Rate(trials=counts.batches, surely=slower.surely, possibly=slower.possibly, allowed=allowed, value=value)


def _share(trials: int, hits: float, limit: float) -> Rate:
    return Rate(trials=trials, surely=hits, possibly=hits, allowed=limit, value=hits / trials if trials else None)


def _excess_nulls(limit: float, counts: ServingCounts) -> Rate:
    """Training's share is the same in every call of a version, so adding it to the limit keeps one null for all."""
    trials = counts.feature_samples
    if not trials:
        return _share(0, 0.0, limit)
    nulls, expected = counts.feature_nulls / FIXED_POINT, counts.feature_nulls_expected / FIXED_POINT / trials
    return Rate(trials=trials, surely=nulls, possibly=nulls, allowed=expected + limit, value=nulls / trials - expected)


def _gauge(samples: int, part: float, whole: float) -> Gauge:
    return Gauge(samples=samples if whole else 0, value=part / whole if whole else None)
