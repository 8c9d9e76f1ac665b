"""Precision profiles: how a version's numbers are kept and multiplied, and the card that says what that changes.

A profile is compared with fp32 on rows of the version's own, by what it would do to users: the largest change of a
probability, who is no longer among a user's first, and the mean that a bid is made from.
Shapes: U users, N rows.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from control_plane.domain.manifest import PRECISIONS
from model_runtime.networks.features import FloatArray, RowBatch

FP32, TF32, BF16, INT8_ROWS = PRECISIONS
SAMPLE_ROWS = 4_096  # of the comparison: half a second on one core at most, once a load
SAMPLE_USERS = 64
TOP = 10  # places whose rows are compared, fewer where a user has not twice as many rows
RANKED_BY = "click"

_flag = threading.RLock()


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityLimits:
    """What a profile may change. The judge holds a candidate's calibration to about a percent; half of it stays."""

    max_delta: float = 0.01
    rank_flips: float = 0.05
    calibration_shift: float = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityCard:
    """A profile against fp32 on the same rows.

    `max_delta` is the largest change of a probability, of any task. `rank_flips` is the share of users' first `k`
    places, by click, that go to another row. `calibration_shift` is the largest relative change of a mean probability
    over the tasks and view types.
    """

    precision: str
    device: str
    users: int
    rows: int
    max_delta: float
    k: int
    rank_flips: float
    calibration_shift: float
    note: str = ""

    def problem(self, limits: ParityLimits | None = None) -> str:
        """What is beyond the limits, with the figures; empty where nothing is. NaN is beyond any."""
        limits = limits or ParityLimits()
        found = [
            f"{name} is {getattr(self, name):.3g}, at most {limit:g} is let through"
            for name, limit in asdict(limits).items()
            if not getattr(self, name) <= limit
        ]
        where = f"on {self.rows} rows of {self.users} users on {self.device}"
        return f"{self.precision} differs from fp32 too much {where}: {'; '.join(found)}" if found else ""


def computing_as(precision: str, device: str) -> AbstractContextManager[object]:
    """How matrices are multiplied inside. On a CPU, tf32 is fp32: no CPU has it."""
    if device.startswith("cuda"):
        return _on_cuda(precision)
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if precision == BF16 else nullcontext()


def note_on(precision: str, device: str) -> str:
    """What a person should know of a profile on a device."""
    if precision == TF32 and not device.startswith("cuda"):
        return f"{device} has no TF32: the same as fp32"
    return ""


def sample_of(golden: RowBatch) -> RowBatch:
    """Every golden user with every golden candidate, as far as the sample's size goes: enough rows to rank."""
    users = min(golden.num_users, SAMPLE_USERS)
    rows = min(golden.num_rows, SAMPLE_ROWS // users)
    crossed = golden.take(np.tile(np.arange(rows), users))
    return replace(crossed, user_index_N=np.repeat(np.arange(users), rows))


def parity(
    precision: str,
    device: str,
    batch: RowBatch,
    expected: Mapping[str, FloatArray],
    found: Mapping[str, FloatArray],
) -> ParityCard:
    """Compare the scores of a profile with those of fp32 on one batch."""
    user_N = batch.user_index_N
    k = max(1, min(TOP, int(np.bincount(user_N).max()) // 2))
    return ParityCard(
        precision=precision,
        device=device,
        users=len(np.unique(user_N)),
        rows=batch.num_rows,
        max_delta=_worst(float(np.abs(found[task] - expected[task]).max()) for task in expected),
        k=k,
        rank_flips=_rank_flips(expected[RANKED_BY], found[RANKED_BY], user_N, k),
        calibration_shift=_worst(_shift(expected[task], found[task], batch.view_type_N) for task in expected),
        note=note_on(precision, device),
    )


@contextmanager
def _on_cuda(precision: str) -> Iterator[None]:
    """Torch's flag is the whole process's, so a forward of another profile must not be launched meanwhile."""
    with _flag:
        torch.set_float32_matmul_precision("high" if precision == TF32 else "highest")
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if precision == BF16 else nullcontext():
            yield


def _rank_flips(expected_N: FloatArray, found_N: FloatArray, user_N: NDArray[np.int64], k: int) -> float:
    flips = places = 0
    for user in np.unique(user_N):
        row_M = np.flatnonzero(user_N == user)
        if len(row_M) > k:  # or all rows are among the first
            first, now_first = (set(np.argsort(-each[row_M], kind="stable")[:k]) for each in (expected_N, found_N))
            flips += len(first - now_first)
            places += k
    return flips / places if places else 0.0


def _shift(expected_N: FloatArray, found_N: FloatArray, view_type_N: NDArray[np.int64]) -> float:
    means = [
        (expected_N[of_type].mean(dtype=np.float64), found_N[of_type].mean(dtype=np.float64))
        for view_type in np.unique(view_type_N)
        for of_type in [view_type_N == view_type]
    ]
    return _worst(abs(float(its) / float(mine) - 1.0) if mine else float(its != mine) for mine, its in means)


def _worst(figures: Iterable[float]) -> float:
    """The largest; NaN where one is, which `max` may pass over."""
    return float(np.max(list(figures)))
