"""The engine's counts as Prometheus metrics, read at each scrape."""

from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import ServingCounts
from model_runtime.engine import Engine

SPLITS_MODES = ("stream", "poll", "last_known_good")


class EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        yield from self._splits()
        yield from _versions(self._engine.tally.counts())
        yield from self._queues()
        loaded = GaugeMetricFamily("surefoot_runtime_loaded", "Versions in memory", labels=["surface", "version"])
        for version_id, surface in self._engine.versions():
            loaded.add_metric([surface, version_id], 1)
        yield loaded
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
        waiting = GaugeMetricFamily("surefoot_runtime_waiting_rows", "Rows in a queue", labels=["queue"])
        waiting.add_metric(["shadow"], self._engine.shadow.queued)
        counts = asdict(self._engine.sink.counts())
        waiting.add_metric(["events"], counts.pop("buffered"))
        failed_posts = CounterMetricFamily("surefoot_runtime_event_post_failures", "Posts that were repeated")
        failed_posts.add_metric([], counts.pop("failed_posts"))
        events = CounterMetricFamily("surefoot_runtime_events", "Events by what became of them", labels=["outcome"])
        for outcome, count in counts.items():
            events.add_metric([outcome], count)
        yield from (dropped, waiting, failed_posts, events)


def _versions(counts: dict[VersionId, ServingCounts]) -> Iterator[Metric]:
    by_name = {version_id: asdict(count) for version_id, count in counts.items()}
    for name in ServingCounts.__dataclass_fields__:
        kind = GaugeMetricFamily if name == "distinct_scores" else CounterMetricFamily
        metric = kind(f"surefoot_runtime_{name}", f"{name} by version since the start", labels=["version"])
        for version_id, count in by_name.items():
            metric.add_metric([version_id], count[name])
        yield metric
