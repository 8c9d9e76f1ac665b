"""What profile each version serves in, and how that differs from fp32, as Prometheus metrics and in metadata."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from prometheus_client.core import GaugeMetricFamily, Metric

from model_runtime.checkpoints import LoadedVersion
from model_runtime.profiles import embedding_bytes
from model_runtime.versions import Version

PARITY = {
    "max_delta": "Largest change of a probability against fp32, on golden users and candidates",
    "rank_flips": "Share of users' first places that go to another row than in fp32",
    "calibration_shift": "Largest relative change of a mean probability against fp32",
}


def precision_metrics(versions: Iterable[Version | None]) -> Iterator[Metric]:
    loaded = [version for version in versions if isinstance(version, LoadedVersion)]
    served = GaugeMetricFamily("surefoot_runtime_precision", "Profile served in", labels=["version", "precision"])
    refused = GaugeMetricFamily(
        "surefoot_runtime_precision_refused",
        "1 where the wanted profile differs from fp32 too much",
        labels=["version"],
    )
    rows = GaugeMetricFamily("surefoot_runtime_embedding_bytes", "Memory of the flat table", labels=["version"])
    for version in loaded:
        served.add_metric([version.version_id, version.precision], 1)
        refused.add_metric([version.version_id], float(bool(version.refused)))
        rows.add_metric([version.version_id], embedding_bytes(version.trunk))
    yield from (served, refused, rows)
    for name, help_text in PARITY.items():
        gauge = GaugeMetricFamily(f"surefoot_runtime_parity_{name}", help_text, labels=["version", "precision"])
        for version in loaded:
            if version.parity is not None:
                gauge.add_metric([version.version_id, version.precision], getattr(version.parity, name))
        yield gauge


def precision_metadata(version: Version) -> dict[str, object]:
    """For a model's metadata: the profile, its parity card, and why a wanted one was refused; none for a program."""
    if not isinstance(version, LoadedVersion):
        return {}
    return {
        "precision": version.precision,
        "device": version.device,
        "embedding_bytes": embedding_bytes(version.trunk),
        **({} if version.parity is None else {"parity": asdict(version.parity)}),
        **({"refused": version.refused} if version.refused else {}),
    }
