"""How long work takes on a device: warmed up, by the device's own events where it has them, as a median."""

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP = 5


def seconds_of(work: Callable[[], object], device: str, rounds: int) -> float:
    """The median of what the device was busy with; the host's own work beside it does not count on CUDA."""
    for _ in range(WARM_UP):
        work()
    if not device.startswith("cuda"):
        return statistics.median(wall_seconds(work) for _ in range(rounds))
    pairs = [(_event(), _event()) for _ in range(rounds)]
    torch.cuda.synchronize(device)
    with torch.cuda.device(device):
        for begin, end in pairs:
            begin.record()
            work()
            end.record()
    torch.cuda.synchronize(device)
    return float(statistics.median(begin.elapsed_time(end) for begin, end in pairs)) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's


def wall_seconds(work: Callable[[], object]) -> float:
    """As a caller sees it; `work` must wait for the device itself."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
