"""The engine's counts as Prometheus metrics, read at each scrape."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from control_plane.domain.latency import LATENCY_BOUNDS_MS
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import FIXED_POINT, ServingCounts
from model_runtime.engine import Engine
from model_runtime.micro_batches import MicroBatches
from model_runtime.precision_metrics import precision_metrics

SPLITS_MODES = ("stream", "poll", "last_known_good")
COUNTERS = {
    "requests": "Users that a version was asked to score for",
    "errors": "Users that got no usable answer from the version",
    "timeouts": "Users answered by a slow forward",
    "scores": "Scores given",
    "bad_scores": "Scores that are NaN, infinite or outside 0 to 1",
    "calls": "Batches that a version was asked to score, also in the shadow",
    "batches": "Batches that answered users",
    "split_batches": "Batches that the cap on unique users cut",
    "rows": "Rows of batches that answered users",
    "users_encoded": "Users encoded for those rows; rows by users is the dedup ratio",
}
BATCHER = {
    "forwards": "Forwards that answered, each of one or more requests",
    "parts": "Requests' parts in those forwards",
    "rows": "Rows in those forwards",
    "users_asked": "Users that the parts brought",
    "users_encoded": "Users encoded for them, each once a forward",
    "deadline_misses": "Requests that were not computed, since their callers waited no longer",
    "refused": "Requests that found too much waiting",
}
GAUGES = {
    "distinct_scores": "Distinct scores given, up to a bound",
    "features": "Features whose null rate training knows",
    "features_lost": "Features of which lately far fewer values come than in training",
}
MEANS = {  # name of a sum in fixed point: the count it is over, and what it is
    "gate_entropy": ("gate_samples", "Normalised entropy of the gates over the experts, of sampled calls"),
    "feature_nulls": ("feature_samples", "Share of feature values that are null, of sampled calls"),
    "feature_nulls_expected": ("feature_samples", "The same share as training had it"),
}


class EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        yield from self._splits()
        yield from _versions(self._engine.tally.counts())
        yield from self._queues()
        yield from _batches(self._engine.scorer.batches)
        loaded = GaugeMetricFamily("surefoot_runtime_loaded", "Versions in memory", labels=["surface", "version"])
        for version_id, surface in self._engine.versions():
            loaded.add_metric([surface, version_id], 1)
        yield loaded
        weights = GaugeMetricFamily("surefoot_runtime_weight_bytes", "Memory of all weights, each tensor once")
        weights.add_metric([], self._engine.residency.held_bytes())
        yield weights
        yield from precision_metrics(
            self._engine.residency.get(version_id) for version_id, _ in self._engine.versions()
        )
        failed = GaugeMetricFamily("surefoot_runtime_load_failed", "Versions that do not load", labels=["version"])
        for version_id in self._engine.residency.failures():
            failed.add_metric([version_id], 1)
        yield failed

    def _splits(self) -> Iterator[Metric]:
        generation = GaugeMetricFamily("surefoot_runtime_generation", "Generation served", labels=["surface"])
        share = GaugeMetricFamily("surefoot_runtime_candidate_bp", "Candidate's basis points", labels=["surface"])
        for surface, split in self._engine.table.splits().items():
            generation.add_metric([surface], split.generation)
            share.add_metric([surface], split.candidate_bp)
        mode = GaugeMetricFamily("surefoot_runtime_splits_mode", "How splits arrive", labels=["mode"])
        for name in SPLITS_MODES:
            mode.add_metric([name], float(self._engine.client.mode == name))
        yield from (generation, share, mode)

    def _queues(self) -> Iterator[Metric]:
        dropped = CounterMetricFamily("surefoot_runtime_shadow_dropped", "Impressions that no shadow scored")
        dropped.add_metric([], self._engine.shadow.dropped)
        by_version = CounterMetricFamily(
            "surefoot_runtime_shadow_dropped_by_version",
            "Impressions that this shadow did not score",
            labels=["version"],
        )
        for version_id, rows in self._engine.shadow.dropped_by_version().items():
            by_version.add_metric([version_id], rows)
        waiting = GaugeMetricFamily("surefoot_runtime_waiting_rows", "Rows in a queue", labels=["queue"])
        waiting.add_metric(["shadow"], self._engine.shadow.queued)
        counts = asdict(self._engine.sink.counts())
        waiting.add_metric(["events"], counts.pop("buffered"))
        failed_posts = CounterMetricFamily("surefoot_runtime_event_post_failures", "Posts that were repeated")
        failed_posts.add_metric([], counts.pop("failed_posts"))
        events = CounterMetricFamily("surefoot_runtime_events", "Events by what became of them", labels=["outcome"])
        for outcome, count in counts.items():
            events.add_metric([outcome], count)
        yield from (dropped, by_version, waiting, failed_posts, events)


def _batches(batches: MicroBatches) -> Iterator[Metric]:
    """How requests met: parts by forwards is how many shared one, users asked by encoded how often each came."""
    for name, count in asdict(batches.counts()).items():
        counter = CounterMetricFamily(f"surefoot_runtime_batcher_{name}", BATCHER[name])
        counter.add_metric([], count)
        yield counter
    for name, waiting in (("requests", batches.waiting_requests), ("rows", batches.waiting_rows)):
        gauge = GaugeMetricFamily(f"surefoot_runtime_batcher_waiting_{name}", "Of the device's queue")
        gauge.add_metric([], waiting)
        yield gauge


def _versions(counts: Mapping[VersionId, ServingCounts]) -> Iterator[Metric]:
    for name, help_text in COUNTERS.items():
        counter = CounterMetricFamily(f"surefoot_runtime_{name}", help_text, labels=["version"])
        for version_id, count in counts.items():
            counter.add_metric([version_id], getattr(count, name))
        yield counter
    for name, help_text in GAUGES.items():
        gauge = GaugeMetricFamily(f"surefoot_runtime_{name}", help_text, labels=["version"])
        for version_id, count in counts.items():
            gauge.add_metric([version_id], getattr(count, name))
        yield gauge
    yield _scoring_seconds(counts)
    for name, (samples, help_text) in MEANS.items():
        mean = SummaryMetricFamily(f"surefoot_runtime_{name}", help_text, labels=["version"])
        for version_id, count in counts.items():
            mean.add_metric([version_id], getattr(count, samples), getattr(count, name) / FIXED_POINT)
        yield mean


def _scoring_seconds(counts: Mapping[VersionId, ServingCounts]) -> Metric:
    histogram = HistogramMetricFamily(
        "surefoot_runtime_scoring_seconds", "Time a version took over a batch that answered users", labels=["version"]
    )
    bounds = [*(str(bound / 1e3) for bound in LATENCY_BOUNDS_MS), "+Inf"]
    for version_id, count in counts.items():
        if count.batches:
            buckets = list(zip(bounds, map(float, accumulate(count.latency_bins)), strict=True))
            histogram.add_metric([version_id], buckets, count.latency_us / 1e6)
    return histogram
