"""Forwards over buffers that never move, one for each shape: CUDA graphs replay them, a compiler specialises on them.

A batch is rounded up to a shape, packed, computed with its padding, and cut to its own rows. Batches that no shape
holds go the usual way. One batch at a time is in a version's buffers.
Shapes: N rows, T tasks.
"""

import logging
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from control_plane.domain.manifest import CompileCard
from model_runtime.batching import of_users
from model_runtime.buckets import CONTEXT, Layout, Shape, bucket_of, layout_of, pack, shapes
from model_runtime.checkpoints import LoadedVersion
from model_runtime.networks.engagement import CLICK, TASKS, RowTensors, Trunk, first_context
from model_runtime.networks.features import FloatArray, RowBatch, check_batch
from model_runtime.networks.fixed_shapes import with_fixed_shapes
from model_runtime.precision import BF16, TF32, computing_as

WARM_UP = 3  # runs before a capture: libraries choose and allocate in the first ones
TOLERANCE = 1e-5  # of a probability, against the usual way
SHORT_TOLERANCE = 5e-3  # the same for profiles that round each product

Run = Callable[[], Tensor]  # computes what lies in the buffers; the same tensor each time, or a new one
Make = Callable[[Run], Run]

log = logging.getLogger(__name__)


class FixedForwards:
    """Of one version; `score` is its `replay`."""

    def __init__(self, version: LoadedVersion, make: Make, *, wanted: Iterable[Shape] = ()) -> None:
        self._spec, self._surface = version.spec, version.manifest.version.surface
        self._precision, self._device = version.precision, version.device
        self._first_context = first_context(version.spec, self._surface)
        self._lock = threading.Lock()
        trunk, widths = with_fixed_shapes(version.trunk), version.spec.widths(self._surface)
        self._forwards = {
            shape: _Forward(version, trunk, layout_of(widths, shape), make) for shape in wanted or shapes()
        }

    def score(self, batch: RowBatch) -> dict[str, FloatArray] | None:
        """Probabilities by task; None where no shape holds the batch.

        Raises:
            InvalidField: the batch breaks the feature contract.
        """
        shape = bucket_of(batch.num_users, batch.num_rows)
        forward = self._forwards.get(shape) if shape is not None else None
        if forward is None:
            return None
        checked = check_batch(self._spec, self._surface, batch)
        with torch.inference_mode(), computing_as(self._precision, self._device), self._lock:
            score_NT = forward.score(checked, checked.view_type_N + self._first_context)
        return dict(zip(TASKS, np.ascontiguousarray(score_NT[: batch.num_rows].T), strict=True))


class _Forward:
    def __init__(self, version: LoadedVersion, trunk: Trunk, layout: Layout, make: Make) -> None:
        self._version, self._trunk, self._layout = version, trunk, layout
        is_pinned = version.device.startswith("cuda")
        self._host_whole = torch.zeros(layout.num_whole, dtype=torch.int64, pin_memory=is_pinned)
        self._host_real = torch.zeros(layout.num_real, dtype=torch.float32, pin_memory=is_pinned)
        self._whole, self._real = (each.to(version.device) for each in (self._host_whole, self._host_real))
        self._rows = self._views()
        with torch.inference_mode(), computing_as(version.precision, version.device):
            self._run = make(self._compute)

    def score(self, batch: RowBatch, context_N: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FloatArray:
        """Shape (rows of the layout, T). On CUDA the last line waits, so that the buffers may be filled again."""
        pack(batch, context_N, self._layout, self._host_whole.numpy(), self._host_real.numpy())
        if self._whole is not self._host_whole:
            self._whole.copy_(self._host_whole, non_blocking=True)
            self._real.copy_(self._host_real, non_blocking=True)
        score_NT: FloatArray = self._run().cpu().numpy()
        return score_NT

    def _compute(self) -> Tensor:
        """Probabilities, shape (N, T)."""
        logit_NT = self._version.head(self._trunk(self._rows), self._rows.own).float()
        click_N = self._version.calibrator(logit_NT[:, CLICK], self._rows.view_type_N)
        logit_NT[:, CLICK] = click_N
        probability_NT: Tensor = logit_NT.sigmoid()
        return probability_NT

    def _views(self) -> RowTensors:
        layout, found = self._layout, {}
        for places, buffer in ((layout.whole, self._whole), (layout.real, self._real)):
            for name, place in places.items():
                found[name] = buffer[place.start : place.end].view(place.shape)
        for name in RowTensors._fields:
            if name not in found:
                size = layout.shape.users if "_U" in name else layout.shape.rows
                found[name] = (self._real if "_dense_" in name else self._whole).new_empty((size, 0))
        assert CONTEXT in found
        return RowTensors(**found)


def as_is(compute: Run) -> Run:
    return compute


def compiled(compute: Run) -> Run:
    """By torch's compiler, for these shapes alone; the first run waits for it, a minute or more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own imports are deprecated ones
        run: Run = torch.compile(compute, dynamic=False)
        run()
    return run


def with_compiled(
    version: LoadedVersion, golden: RowBatch, card: CompileCard, *, make: Make = compiled
) -> LoadedVersion:
    """The version with its card's shape compiled, where the card was measured on a device like this and found gain."""
    is_like_this = (card.device, card.threads) == (version.device, torch.get_num_threads())
    shape = bucket_of(card.users, card.rows)
    if not card.is_faster or not is_like_this or shape is None:
        return version
    try:
        return checked_replay(version, golden, FixedForwards(version, make, wanted=[shape]))
    except Exception as error:  # no compiler on this machine, or one that does not take this network
        log.warning("version %s: not compiled: %s", version.version_id, error)
        return version


def with_graphs(version: LoadedVersion, golden: RowBatch, *, wanted: Iterable[Shape] = ()) -> LoadedVersion:
    """The version with CUDA graphs of its small forwards; as it is where they cannot be had, or change a score."""
    try:
        forwards = FixedForwards(version, _Capture(version.device), wanted=wanted)
        return checked_replay(version, golden, forwards)
    except Exception as error:  # whatever an operation or a driver does not let into a graph
        log.warning("version %s: no CUDA graphs: %s", version.version_id, error)
        return version


def checked_replay(version: LoadedVersion, golden: RowBatch, forwards: FixedForwards) -> LoadedVersion:
    """The version with these forwards, unless they change its scores."""
    first = of_users(golden, np.arange(golden.num_users) == golden.user_index_N[0]).batch
    is_right = has_the_scores_of(version, golden, forwards) and has_the_scores_of(version, first, forwards)
    return replace(version, replay=forwards.score) if is_right else version


def has_the_scores_of(version: LoadedVersion, batch: RowBatch, forwards: FixedForwards) -> bool:
    """Whether the forwards, where they hold the batch, score it as the usual way does."""
    found, expected = forwards.score(batch), replace(version, replay=None).score(batch)
    if found is None:
        return True
    worst = np.max([np.abs(found[task] - expected[task]).max() for task in TASKS])
    is_right = bool(worst <= (SHORT_TOLERANCE if version.precision in (BF16, TF32) else TOLERANCE))
    if not is_right:
        log.error("version %s: fixed shapes change a score by %.2g; not used", version.version_id, worst)
    return is_right


class _Capture:
    """Records forwards of one version, whose intermediate results lie in one pool: only one of them replays at a time.

    Other threads go on serving meanwhile, which a capture of the default mode would not bear.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's

    def __call__(self, compute: Run) -> Run:
        """Run it some times, then record it; replays read and write where the recording did."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    compute()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                out = compute()

        def run() -> Tensor:
            graph.replay()
            return out

        return run
