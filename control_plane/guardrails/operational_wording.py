"""How operational findings are said to people."""

import math

from control_plane.domain.latency import slower_than
from control_plane.domain.moments import FIXED_POINT, ServingCounts
from control_plane.domain.plan import LOWER_LIMITED, OperationalMetric, OperationalPlan
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.serving_measures import SLOW_SHARE, Gauge, Rate, impossible, measure

NAMES = {
    OperationalMetric.LATENCY_P50: "median latency",
    OperationalMetric.LATENCY_P99: "p99 latency",
    OperationalMetric.ERROR_RATE: "error rate",
    OperationalMetric.TIMEOUT_RATE: "timeout rate",
    OperationalMetric.BAD_SCORE_RATE: "bad-score rate",
    OperationalMetric.FEATURE_COVERAGE: "feature coverage",
    OperationalMetric.FEATURE_NULL_RATE: "null rate beyond training's",
    OperationalMetric.USER_CAP_SPLIT_RATE: "share of batches over the user cap",
    OperationalMetric.GATE_ENTROPY: "gate entropy",
    OperationalMetric.DEDUP_RATIO: "dedup ratio",
}
HITS = {
    OperationalMetric.LATENCY_P50: "took longer",
    OperationalMetric.LATENCY_P99: "took longer",
    OperationalMetric.ERROR_RATE: "of users got no usable answer",
    OperationalMetric.TIMEOUT_RATE: "of users waited for a slow forward",
    OperationalMetric.BAD_SCORE_RATE: "of scores are NaN, infinite or outside 0 to 1",
    OperationalMetric.USER_CAP_SPLIT_RATE: "brought more users than one forward takes",
    OperationalMetric.FEATURE_NULL_RATE: "of feature values are null",
}
OF_CALLS = {*SLOW_SHARE, OperationalMetric.USER_CAP_SPLIT_RATE}  # hits are calls, not parts of them
SAMPLED = {
    OperationalMetric.FEATURE_COVERAGE,
    OperationalMetric.FEATURE_NULL_RATE,
    OperationalMetric.GATE_ENTROPY,
}


def sentence(finding: Finding) -> str:
    """'p99 latency of the candidate is above 40 ms: 2.3 % of 120 000 calls took longer, 0.9 % on stable'."""
    metric = OperationalMetric(finding.metric)
    subject, limit = f"{NAMES[metric]} of the candidate", _in_units(metric, finding.limit)
    worse, better = ("below", "at least") if metric in LOWER_LIMITED else ("above", "at most")
    match finding.answer:
        case Answer.HARM:
            return f"{subject} is {worse} {limit}: {finding.detail}"
        case Answer.SAFE:
            return f"{subject} is {better} {limit}: {finding.detail}"
        case Answer.UNDECIDED:
            return f"{subject} is not yet shown to be {better} {limit}: {finding.detail}"
        case Answer.INSUFFICIENT | Answer.NO_DATA:
            return f"{subject} is not yet judged ({finding.missing}): {finding.detail}"
        case Answer.ERROR | Answer.STALE | Answer.EMPTY | Answer.NAN | Answer.FAILED:
            return f"{subject} cannot be judged: {finding.detail}"
        case Answer.MONITORED:
            return f"{subject}, told only: {finding.detail}"


def missing(metric: OperationalMetric, samples: int, wanted: int) -> str:
    kind = "sampled calls" if metric in SAMPLED else "calls"
    return f"{thousands(samples)} of {thousands(wanted)} {kind}" if samples < wanted else ""


def detail(entry: OperationalPlan, measured: Rate | Gauge, candidate: ServingCounts, stable: ServingCounts) -> str:
    """What was measured of the candidate, whose counts must be possible, beside stable's."""
    if isinstance(measured, Gauge):
        if not measured.samples:
            return _nothing(entry.metric)
        beside = f"{_on_stable(entry, stable)}; compared as it stands, without statistics"
        return f"{_gauge(entry.metric, candidate)}, {beside}"
    if not measured.trials:
        return _nothing(entry.metric)
    return f"{_rate(entry, measured, candidate)}, {_on_stable(entry, stable)}"


def thousands(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _nothing(metric: OperationalMetric) -> str:
    if metric in (OperationalMetric.FEATURE_COVERAGE, OperationalMetric.FEATURE_NULL_RATE):
        return "no sampled call, or an export that does not tell how often features were null in training"
    return "no call has been counted"


def _on_stable(entry: OperationalPlan, stable: ServingCounts) -> str:
    if impossible(entry.metric, stable):
        return "stable's counts cannot be"
    measured = measure(entry.metric, entry.limit, stable)
    if isinstance(measured, Gauge):
        return "nothing on stable" if measured.value is None else f"{_plain(entry.metric, measured.value)} on stable"
    if not measured.trials:
        return "nothing on stable"
    return f"{_span(measured.surely, measured.possibly, measured.trials)} on stable"


def _gauge(metric: OperationalMetric, counts: ServingCounts) -> str:
    match metric:
        case OperationalMetric.FEATURE_COVERAGE:
            return f"{counts.features_lost} of {counts.features} features come far less often than in training"
        case OperationalMetric.DEDUP_RATIO:
            return (
                f"{counts.rows / counts.users_encoded:.3g} rows per encoded user in {thousands(counts.batches)} calls"
            )
        case _:
            mean = counts.gate_entropy / FIXED_POINT / counts.gate_samples
            return f"{mean:.3g} of the most that gates can have in {thousands(counts.gate_samples)} sampled calls"


def _rate(entry: OperationalPlan, rate: Rate, counts: ServingCounts) -> str:
    share, calls = _span(rate.surely, rate.possibly, rate.trials), thousands(rate.trials)
    if entry.metric in OF_CALLS:
        return f"{share} of {calls} calls {HITS[entry.metric]}{_inexact(entry, counts)}"
    if entry.metric is OperationalMetric.FEATURE_NULL_RATE:
        in_training = counts.feature_nulls_expected / FIXED_POINT / counts.feature_samples
        return f"{share} {HITS[entry.metric]} in {calls} sampled calls, {_percent(in_training)} in training"
    return f"{share} {HITS[entry.metric]} in {calls} calls"


def _inexact(entry: OperationalPlan, counts: ServingCounts) -> str:
    if entry.metric not in SLOW_SHARE:
        return ""
    slower = slower_than(counts.latency_bins, entry.limit)
    if slower.is_exact:
        return ""
    above = "" if math.isinf(slower.high_ms) else f" and {slower.high_ms:g}"
    return f" ({entry.limit:g} ms is counted no closer than by {slower.low_ms:g}{above} ms)"


def _span(surely: float, possibly: float, trials: int) -> str:
    low, high = _percent(surely / trials), _percent(possibly / trials)
    return low if low == high else f"{low} to {high}"


def _in_units(metric: OperationalMetric, limit: float | None) -> str:
    return "its limit" if limit is None else _plain(metric, limit)


def _plain(metric: OperationalMetric, value: float) -> str:
    if metric in SLOW_SHARE:
        return f"{value:g} ms"
    if metric is OperationalMetric.DEDUP_RATIO:
        return f"{value:.3g} rows per user"
    return f"{value:.3g}" if metric is OperationalMetric.GATE_ENTROPY else _percent(value)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
