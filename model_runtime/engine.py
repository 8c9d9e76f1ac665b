"""The scoring runtime without its HTTP door: splits in, scores out, events and heartbeats away.

Shapes: U users, N rows of a request, S impressions shown.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.events import EventKind
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import Arm, Split
from model_runtime.batching import one_user_each
from model_runtime.by_hand import ByHand
from model_runtime.event_sink import EventSink
from model_runtime.heartbeat import Heartbeat
from model_runtime.impressions import ImpressionIds, Impressions
from model_runtime.kept import Kept
from model_runtime.networks.features import RowBatch
from model_runtime.protocol import InferRequest, Tensor
from model_runtime.request_stats import RequestStats
from model_runtime.residency import Residency
from model_runtime.router import arms, shadowed
from model_runtime.scorer import NOTHING_SHOWN, Routed, Scorer, best_rows
from model_runtime.scores import HEADS, Scores
from model_runtime.scoring_request import Showing, read_batch, read_deadline, read_showing, read_user_keys
from model_runtime.settings import RuntimeSettings, usual_lanes
from model_runtime.shadow import Shadow, ShadowJob
from model_runtime.split_client import SplitClient
from model_runtime.split_table import SplitTable
from model_runtime.steps import Steps, take
from model_runtime.tally import Tally
from model_runtime.unavailable import Unavailable
from model_runtime.versions import Version

LAST_KNOWN_GOOD = "splits.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """Outputs by name; `parameters` say which split answered."""

    outputs: Mapping[str, Tensor]
    version_id: VersionId
    parameters: Mapping[str, object]


class Engine:
    """Owns every part and thread of the runtime; `infer` and `inferring` may be called from many threads."""

    def __init__(self, settings: RuntimeSettings) -> None:
        url, token = settings.control_plane, settings.token
        self.settings = settings
        self.residency = Residency(
            device=settings.device,
            precision=settings.precision,
            budget_bytes=settings.memory_budget_bytes,
            on_settled=self._apply_splits,
        )
        self.tally = Tally()
        self.stats = RequestStats()
        self.scorer = Scorer(
            self.residency,
            self.tally,
            max_users=settings.max_users_per_forward,
            max_rows=settings.max_rows_per_forward,
            batch_seconds=settings.batch_seconds,
            slow_seconds=settings.slow_forward_seconds,
            lanes=settings.lanes or usual_lanes(settings.device, settings.torch_threads),
            may_lead=settings.device == "cpu" and settings.torch_threads == 1,
            stats=self.stats,
        )
        self.table = SplitTable(is_ready=self._is_ready)
        self.sink = EventSink(url, token=token, max_rows=settings.event_buffer_rows)
        self.shadow = Shadow(
            self.residency,
            self.scorer,
            self.sink,
            max_rows=settings.shadow_queue_rows,
            max_bytes=settings.shadow_queue_bytes,
        )
        self.client = SplitClient(
            self.table,
            url,
            path=settings.data_dir / LAST_KNOWN_GOOD,
            on_change=self._apply_splits,
            token=token,
            poll_seconds=settings.poll_seconds,
        )
        self.by_hand = ByHand(self.residency, settings.repository, on_change=self.hurry)
        self.heartbeat = Heartbeat(
            url, settings.runtime_id, self.report, token=token, seconds=settings.heartbeat_seconds
        )
        self._impression_ids = ImpressionIds()

    def start(self) -> None:
        for part in (self.residency, self.sink, self.shadow, self.client, self.heartbeat):
            part.start()

    def stop(self) -> None:
        """Let queued shadow work and events out, as far as the settings' time allows; then end every thread."""
        self.shadow.drain(self.settings.stop_seconds)
        self.shadow.stop()
        self.scorer.batches.stop()
        self.sink.stop(self.settings.stop_seconds)
        self.heartbeat.stop()
        self.client.stop()
        self.residency.stop()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all that was shown is with the control plane and every shadow is done; False out of time."""
        return self.shadow.drain(timeout_seconds) and self.sink.flush(timeout_seconds)

    def infer(
        self, surface: Surface, version_id: VersionId | None, request: InferRequest, *, arrived_at: float | None = None
    ) -> Inference:
        """Score a request with the version it names, or with each user's arm.

        Args:
            arrived_at: on the monotonic clock, from when the caller's `timeout` counts; now where it is not given.

        Raises:
            InvalidField: an input or parameter that breaks its contract.
            UnknownName: no such surface, or no such version in memory.
            Unavailable: nothing can answer now, or not before the caller's deadline.
        """
        return take(self.inferring(surface, version_id, request, arrived_at=arrived_at), self.scorer.batches)

    def inferring(
        self, surface: Surface, version_id: VersionId | None, request: InferRequest, *, arrived_at: float | None = None
    ) -> Steps[Inference]:
        """The same in steps."""
        showing = read_showing(request.parameters)
        since = time.monotonic() if arrived_at is None else arrived_at
        deadline = read_deadline(request.parameters, arrived_at=since, max_seconds=self.settings.max_seconds)
        if version_id is None:
            return (yield from self._infer_routed(self.split(surface), request, showing, deadline))
        if showing is not None:
            raise InvalidField("parameters.show", "needs a routed request; this one names its version")
        version = self.version(surface, version_id)
        scores = yield from self.scorer.scoring(version, self._read_batch(version, request), deadline=deadline)
        if scores.bad_rows().all():
            raise Unavailable(f"version {version_id} has no sound score for any row")
        return Inference(outputs=_score_outputs(scores), version_id=version_id, parameters={})

    def split(self, surface: Surface) -> Split:
        """What serves on a surface now; `Unavailable` while it loads or before any split is known."""
        if (split := self.table.split(surface)) is not None:
            return split
        known = sorted(self.table.splits())
        if surface in self.table.ordered():
            raise Unavailable(f"{surface}: its stable version is loading")
        if not known:
            raise Unavailable("no split is known yet; the control plane was not reached")
        raise UnknownName("surface", surface, known=known)

    def version(self, surface: Surface, version_id: VersionId) -> Version:
        """A version in memory, of this surface."""
        version = self.residency.get(version_id)
        if version is None or version.manifest.version.surface != surface:
            of_surface = [v for v, its_surface in self.versions() if its_surface == surface]
            raise UnknownName(f"loaded version of {surface}", version_id, known=of_surface)
        return version

    def versions(self) -> list[tuple[VersionId, Surface]]:
        return self.residency.versions()

    def hurry(self) -> None:
        """Tell the control plane at once what is loaded now."""
        self.heartbeat.hurry()

    def statistics(self, surface: Surface | None, version_id: VersionId | None) -> list[dict[str, object]]:
        """By version in memory: of one surface, of one version of it, or of all."""
        if surface is not None and version_id is not None:
            return [self.stats.of(surface, self.version(surface, version_id).version_id)]
        found = [self.stats.of(name, v) for v, name in self.versions() if surface in (None, name)]
        if surface is not None and not found:
            self.split(surface)  # says why there is none
        return found

    def report(self) -> dict[str, object]:
        """A heartbeat's body."""
        return {
            "generations": {surface: split.generation for surface, split in self.table.splits().items()},
            "loaded": list(self.residency.loaded()),
            "counts": {version_id: asdict(counts) for version_id, counts in self.tally.counts().items()},
            "shadow_dropped": self.shadow.dropped,
            "splits_mode": self.client.mode,
        }

    def _apply_splits(self) -> None:
        """Load what the splits name, and let those take effect whose versions are there."""
        self.residency.want(self.table.wanted())
        self.table.settle()
        self.heartbeat.hurry()

    def _is_ready(self, split: Split) -> bool:
        """Stable is in memory, and a candidate with weight is there or known not to load: stable answers for it."""
        waits_for_candidate = split.candidate_bp > 0 and not self.residency.is_settled(split.version_of(Arm.CANDIDATE))
        return self.residency.get(split.stable) is not None and not waits_for_candidate

    def _infer_routed(
        self, split: Split, request: InferRequest, showing: Showing | None, deadline: float
    ) -> Steps[Inference]:
        stable = self.residency.get(split.stable)
        if stable is None:
            raise Unavailable(f"{split.surface}: stable version {split.stable} is not loaded")
        batch = self._read_batch(stable, request)
        user_key_U = read_user_keys(request, batch.num_users)
        routed = yield from self.scorer.scoring_routed(
            split,
            arms(split, user_key_U),
            batch,
            deadline=deadline,
            keeps_activations=showing is not None and self._keeps_activations(split, stable, user_key_U),
        )
        outputs = {**_score_outputs(routed.scores), "arm": routed.arm_U}
        if showing is not None:
            outputs |= self._show(split, showing, stable, routed, batch, user_key_U)
        return Inference(outputs=outputs, version_id=split.stable, parameters=_parameters_of(split))

    def _read_batch(self, version: Version, request: InferRequest) -> RowBatch:
        surface = version.manifest.version.surface
        return read_batch(version.spec, surface, request, max_rows=self.settings.max_rows)

    def _show(
        self,
        split: Split,
        showing: Showing,
        stable: Version,
        routed: Routed,
        batch: RowBatch,
        user_key_U: NDArray[np.uint64],
    ) -> dict[str, Tensor]:
        """Pick each user's row, log it, and let the shadow look at a sample of what stable served."""
        shown_row_U = best_rows(routed.scores.click_N, batch.user_index_N, batch.num_users)
        impression_id_U = self._impression_ids.take(batch.num_users)
        is_shown_U = shown_row_U != NOTHING_SHOWN
        row_S, arm_S = shown_row_U[is_shown_U], routed.arm_U[is_shown_U]
        impressions = Impressions(
            surface=split.surface,
            generation=split.generation,
            served_at_ms=showing.served_at_ms,
            view_types=stable.manifest.view_types,
            impression_id_S=impression_id_U[is_shown_U],
            user_key_S=user_key_U[is_shown_U],
            view_type_S=batch.view_type_N[row_S],
        )
        self.sink.put(EventKind.EXPOSURE, impressions.exposures(split, arm_S, routed.scores.click_N[row_S]))
        self._offer_to_shadow(split, stable, impressions, arm_S, batch, row_S, routed.kept)
        return {"shown_row": shown_row_U, "impression_id": impression_id_U}

    def _offer_to_shadow(
        self,
        split: Split,
        stable: Version,
        impressions: Impressions,
        arm_S: NDArray[np.int64],
        batch: RowBatch,
        row_S: NDArray[np.int64],
        kept: Kept | None,
    ) -> None:
        for version_id, sample_bp in self._shadows_of(split).items():
            is_sampled_S = shadowed(split, impressions.user_key_S, sample_bp) & (arm_S == Arm.STABLE)
            if is_sampled_S.any():
                readable = kept if self._reads_trunk_of(stable, version_id) else None
                make = partial(_shadow_job, version_id, impressions, is_sampled_S, batch, row_S, readable)
                self.shadow.offer(version_id, int(is_sampled_S.sum()), make)

    def _keeps_activations(self, split: Split, stable: Version, user_key_U: NDArray[np.uint64]) -> bool:
        """Whether a shadow will read what stable's trunk says of one of these users."""
        return any(
            self._reads_trunk_of(stable, version_id) and shadowed(split, user_key_U, sample_bp).any()
            for version_id, sample_bp in self._shadows_of(split).items()
        )

    def _reads_trunk_of(self, stable: Version, version_id: VersionId) -> bool:
        """A call whose features are to be looked at reads its rows anew: activations do not tell of them."""
        version = self.residency.get(version_id)
        return version is not None and version.reads_activations_of(stable) and not self.tally.is_due(version_id)

    def _shadows_of(self, split: Split) -> dict[VersionId, int]:
        """What share of users each version shadows: those loaded by hand, and the split's, whose word counts."""
        shadows = {v: bp for v, bp in self.by_hand.shadows_of(split.surface).items() if v != split.stable}
        if split.shadow is not None:
            shadows[split.shadow] = split.shadow_sample_bp
        return shadows


def _shadow_job(
    version_id: VersionId,
    impressions: Impressions,
    is_sampled_S: NDArray[np.bool_],
    batch: RowBatch,
    row_S: NDArray[np.int64],
    kept: Kept | None,
) -> ShadowJob:
    activations = None if kept is None else kept.take(row_S[is_sampled_S])
    rows = one_user_each(batch, row_S[is_sampled_S]) if activations is None else activations
    return ShadowJob(version_id=version_id, impressions=impressions.where(is_sampled_S), rows=rows)


def _score_outputs(scores: Scores) -> dict[str, Tensor]:
    return {head: getattr(scores, f"{head}_N") for head in HEADS}


def _parameters_of(split: Split) -> dict[str, object]:
    return {"generation": split.generation, "stable": split.stable, "candidate": split.candidate or ""}
