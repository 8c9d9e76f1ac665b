"""Whether a version is faster compiled, measured where it is exported and believed only by machines like that."""

import logging
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from control_plane.domain.manifest import CompileCard
from model_runtime.batching import of_users
from model_runtime.buckets import Shape
from model_runtime.checkpoints import LoadedVersion
from model_runtime.fixed_forwards import FixedForwards, Make, compiled, has_the_scores_of
from model_runtime.networks.features import RowBatch
from model_runtime.training.latency import CARD_ROWS

WARM_UP, ROUNDS = 3, 31

log = logging.getLogger(__name__)


def compile_card(version: LoadedVersion, sample: RowBatch, *, make: Make = compiled) -> CompileCard:
    """One user's candidates, scored the usual way and compiled in turn."""
    one = of_users(sample, np.arange(sample.num_users) == sample.user_index_N[0]).batch
    batch = one.take(np.resize(np.arange(one.num_rows), CARD_ROWS))
    begun = time.perf_counter()
    try:
        forwards = FixedForwards(version, make, wanted=[Shape(1, CARD_ROWS)])
        is_right = has_the_scores_of(version, batch, forwards)
    except Exception as error:  # no compiler here, or one that does not take this network: the card says so
        log.warning("version %s is not compiled: %s", version.version_id, error)
        is_right = False
    compile_seconds = time.perf_counter() - begun
    pairs: list[tuple[float, float]] = []
    for round_ in range(WARM_UP + ROUNDS):
        eager = _seconds(lambda: version.score(batch))
        pair = (eager, _seconds(lambda: forwards.score(batch)) if is_right else 0.0)
        pairs += [pair] if round_ >= WARM_UP else []
    eager_ms, compiled_ms = (round(1e3 * statistics.median(each), 3) for each in zip(*pairs, strict=True))
    return CompileCard(
        device=version.device,
        threads=torch.get_num_threads(),
        users=1,
        rows=CARD_ROWS,
        eager_ms=eager_ms,
        compiled_ms=compiled_ms if is_right else None,
        compile_seconds=round(compile_seconds, 1),
    )


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
