"""Whole requests as the runtime scores them: every profile's parity card, graphs against none, rows a second.

The network is the built-in one with the sizes of `benchmarks.serving`, its weights drawn wide so that scores differ.
Shapes: U users, N rows.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_run.scale import Scale
from benchmarks.gpu_run.timing import wall_seconds
from benchmarks.serving_run.model import SURFACE, pages, the_spec
from control_plane.domain.manifest import PRECISIONS
from model_runtime.batching import join, user_digests
from model_runtime.checkpoints import LoadedVersion, load_version
from model_runtime.networks.attention import AttentionConfig
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import EngagementNetwork, HeadConfig, TrunkConfig
from model_runtime.networks.features import RowBatch
from model_runtime.profiles import serve_as
from model_runtime.training.export import export
from model_runtime.training.joint import JointCheckpoint

SMALL = ((1, 32), (4, 64), (16, 256))  # users and rows for which a graph is worth most
GOLDEN_USERS, GOLDEN_ROWS = 32, 16
SPREAD = 40.0  # of the last layer's weights: untrained ones give every row the same score


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Calls of one size in one profile."""

    precision: str
    users: int
    rows: int
    p50_ms: float
    p99_ms: float

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.p50_ms * 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphGain:
    users: int
    rows: int
    eager_ms: float
    graph_ms: float


def export_wide(out: Path) -> Path:
    """The folder of one surface's version."""
    torch.manual_seed(0)
    spec = the_spec().of_surfaces([SURFACE])
    network = EngagementNetwork(spec, TrunkConfig(attention=AttentionConfig()), {SURFACE: HeadConfig()}).eval()
    network.requires_grad_(False)
    network.head_of(SURFACE).weight_TG.mul_(SPREAD)
    joint = JointCheckpoint(
        network=network,
        calibrators={SURFACE: Calibrator(len(spec.view_types_of(SURFACE)))},
        golden={SURFACE: some_users(GOLDEN_USERS, GOLDEN_ROWS)},
        training_run="benchmark",
        metrics={},
    )
    export(joint, out)
    return out / SURFACE


def some_users(users: int, rows_of_each: int) -> RowBatch:
    batches = [page.batch for page in pages(users, rows=rows_of_each)]
    return join(batches, [user_digests(batch) for batch in batches]).batch


def in_every_profile(folder: Path, device: str) -> dict[str, LoadedVersion]:
    """By the profile that was asked for; one that is refused serves in fp32."""
    return {
        precision: load_version(folder, device=device, prepare=partial(serve_as, precision=precision))
        for precision in PRECISIONS
    }


def graph_gains(version: LoadedVersion, scale: Scale) -> Iterator[GraphGain]:
    """In turn, so that what slows the machine slows both."""
    without = replace(version, replay=None)
    for users, rows in SMALL:
        batch = some_users(users, rows // users)
        for each in (version, without):
            _score_again(each, batch, 10)
        pairs = [
            (wall_seconds(partial(without.score, batch)), wall_seconds(partial(version.score, batch)))
            for _ in range(scale.calls)
        ]
        eager_ms, graph_ms = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
        yield GraphGain(users=users, rows=rows, eager_ms=eager_ms, graph_ms=graph_ms)


def requests(version: LoadedVersion, precision: str, scale: Scale) -> Iterator[Requests]:
    """One user's candidates, a small batch of users, and a large one."""
    for users, rows in ((1, 500), (32, 1_024), (64, scale.large_rows)):
        batch = some_users(users, rows // users)
        calls = scale.calls if rows <= 1_024 else max(3, scale.calls // 8)
        _score_again(version, batch, 5)
        seconds = [wall_seconds(partial(version.score, batch)) for _ in range(calls)]
        p50_ms, p99_ms = (1e3 * float(each) for each in np.quantile(seconds, [0.5, 0.99]))
        yield Requests(precision=precision, users=users, rows=batch.num_rows, p50_ms=p50_ms, p99_ms=p99_ms)


def _score_again(version: LoadedVersion, batch: RowBatch, times: int) -> None:
    for _ in range(times):
        version.score(batch)
