"""Scores what stable served once more, with each shadow version, when there is time.

Every version has a queue of its own, bounded in rows, and they take turns: a slow one costs no other its evidence.
What does not fit is dropped and counted: no answer ever waits for a shadow.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from control_plane.domain.events import EventKind
from control_plane.domain.model_version import VersionId
from model_runtime.checkpoints import Activations
from model_runtime.event_sink import EventSink
from model_runtime.impressions import Impressions
from model_runtime.kept import num_bytes
from model_runtime.networks.features import RowBatch
from model_runtime.residency import Residency
from model_runtime.scorer import Scorer

PATIENCE_SECONDS = 0.25  # that a shadow waits for a moment in which nobody is answered; then it trickles
MAX_JOBS = 10_000  # of one version: a job of one row costs some kilobytes, whatever its row does

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowJob:
    """The rows that were shown, one per impression and in their order: as they came, or as stable's trunk read them."""

    version_id: VersionId
    impressions: Impressions
    rows: RowBatch | Activations

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows if isinstance(self.rows, RowBatch) else len(self.rows.shared.crossed_NX)

    @property
    def num_bytes(self) -> int:
        if isinstance(self.rows, RowBatch):
            return sum(getattr(self.rows, name).nbytes for name in RowBatch.__slots__)
        return num_bytes(self.rows)


class Shadow:
    """One worker thread over a queue for each version; `max_rows` and `max_bytes` bound each of them."""

    def __init__(
        self, residency: Residency, scorer: Scorer, sink: EventSink, *, max_rows: int, max_bytes: int = 1 << 28
    ) -> None:
        self._residency = residency
        self._scorer = scorer
        self._sink = sink
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._queued_bytes: Counter[VersionId] = Counter()
        self._queues: dict[VersionId, deque[ShadowJob]] = {}  # in the order of their turns; none is empty
        self._queued_rows: Counter[VersionId] = Counter()  # the job being worked on included
        self._finished_rows: Counter[VersionId] = Counter()  # of all that were ever queued
        self._dropped_rows: Counter[VersionId] = Counter()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work_on, name="shadow", daemon=True)

    @property
    def dropped(self) -> int:
        """Impressions that were to be scored and were not."""
        with self._changed:
            return self._dropped_rows.total()

    @property
    def queued(self) -> int:
        with self._changed:
            return self._queued_rows.total()

    def dropped_by_version(self) -> dict[VersionId, int]:
        with self._changed:
            return dict(self._dropped_rows)

    def start(self) -> None:
        self._thread.start()

    def offer(self, version_id: VersionId, rows: int, make: Callable[[], ShadowJob]) -> None:
        """Queue a job if there is room; `make` runs only then, since cutting out its rows costs time too."""
        with self._changed:
            num_jobs = len(self._queues.get(version_id, ()))
            is_full = self._queued_rows[version_id] + rows > self._max_rows or num_jobs >= MAX_JOBS
            if is_full or self._is_stopping:
                self._dropped_rows[version_id] += rows
                return
            self._queued_rows[version_id] += rows
        job = None
        try:
            job = make()
        except Exception:  # it runs in the thread of an answer, which it must not cost
            log.exception("a job of the shadow %s cannot be made", version_id)
        finally:
            with self._changed:
                if job is None or self._queued_bytes[version_id] + job.num_bytes > self._max_bytes:
                    self._dropped_rows[version_id] += rows
                    self._finish(version_id, rows)
                else:
                    self._queued_bytes[version_id] += job.num_bytes
                    self._queues.setdefault(version_id, deque()).append(job)
                    self._changed.notify_all()

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until what is queued now is done; False if time ran out first."""
        with self._changed:
            wanted_rows = self._finished_rows + self._queued_rows
            return self._changed.wait_for(lambda: self._finished_rows >= wanted_rows, timeout_seconds)

    def stop(self) -> None:
        """Finish the job at hand and drop the rest."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            for version_id, rows in list(self._queued_rows.items()):
                self._dropped_rows[version_id] += rows
                self._finish(version_id, rows)
            self._queues.clear()
            self._queued_bytes.clear()

    def _work_on(self) -> None:
        while (job := self._next()) is not None:
            rows = job.num_rows
            try:
                self._score(job)
            except Exception:  # whatever a shadow's answer looks like, the next job gets its turn
                log.exception("the shadow %s failed on %d impressions", job.version_id, rows)
                with self._changed:
                    self._dropped_rows[job.version_id] += rows
            finally:
                with self._changed:
                    self._finish(job.version_id, rows)

    def _finish(self, version_id: VersionId, rows: int) -> None:
        """Call with the lock held."""
        self._queued_rows[version_id] -= rows
        self._finished_rows[version_id] += rows
        self._changed.notify_all()

    def _next(self) -> ShadowJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queues or self._is_stopping)
            if self._is_stopping:
                return None
            version_id, jobs = next(iter(self._queues.items()))
            del self._queues[version_id]
            job = jobs.popleft()
            self._queued_bytes[version_id] -= job.num_bytes
            if jobs:
                self._queues[version_id] = jobs  # last in turn now
            return job

    def _score(self, job: ShadowJob) -> None:
        version = self._residency.get(job.version_id)
        if version is None:
            with self._changed:
                self._dropped_rows[job.version_id] += job.num_rows
            return
        if isinstance(job.rows, RowBatch):
            scores = self._scorer.score_in_shadow(version, job.rows, patience_seconds=PATIENCE_SECONDS)
        else:
            scores = self._scorer.score_kept(version, job.rows, patience_seconds=PATIENCE_SECONDS)
        is_sound_S = ~scores.bad_rows()
        if is_sound_S.any():
            record = job.impressions.where(is_sound_S).shadow_scores(job.version_id, scores.click_N[is_sound_S])
            self._sink.put(EventKind.SHADOW_SCORE, record)
