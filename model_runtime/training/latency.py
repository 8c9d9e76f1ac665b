"""How long a version takes where it is exported: a figure beside it, not a promise."""

import time

import numpy as np
import torch

from control_plane.domain.manifest import LatencyCard
from model_runtime.batching import of_users
from model_runtime.networks.features import RowBatch
from model_runtime.versions import Version

CARD_ROWS = 512  # candidates of one user: a request as a surface sends it
WARM_UP, ROUNDS = 3, 30


def latency_card(version: Version, sample: RowBatch) -> LatencyCard:
    """The median and the 99th percentile of scoring one user's candidates, taken from a sample again and again."""
    one = of_users(sample, np.arange(sample.num_users) == sample.user_index_N[0]).batch
    batch = one.take(np.resize(np.arange(one.num_rows), CARD_ROWS))
    for _ in range(WARM_UP):
        version.score(batch)
    seconds = [_seconds(version, batch) for _ in range(ROUNDS)]
    p50_ms, p99_ms = (round(1_000 * float(each), 3) for each in np.quantile(seconds, [0.5, 0.99]))
    return LatencyCard(
        device=version.device,
        threads=torch.get_num_threads(),
        users=1,
        rows=CARD_ROWS,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
    )


def _seconds(version: Version, batch: RowBatch) -> float:
    begun = time.perf_counter()
    version.score(batch)
    return time.perf_counter() - begun
