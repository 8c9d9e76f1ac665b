"""Scores what stable served once more, with the shadow version, when there is time.

The queue is bounded and what does not fit is dropped and counted: no answer ever waits for a shadow.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from control_plane.domain.events import EventKind
from control_plane.domain.model_version import VersionId
from model_runtime.event_sink import EventSink
from model_runtime.impressions import Impressions
from model_runtime.networks.features import RowBatch
from model_runtime.residency import Residency
from model_runtime.scorer import Scorer

PATIENCE_SECONDS = 0.25  # that a shadow waits for a moment in which nobody is answered; then it trickles
MAX_JOBS = 10_000  # a job of one row costs some kilobytes, whatever its row does

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowJob:
    """The rows that were shown, one per impression and in their order."""

    version_id: VersionId
    impressions: Impressions
    batch: RowBatch


class Shadow:
    """One worker thread over a queue bounded in rows."""

    def __init__(self, residency: Residency, scorer: Scorer, sink: EventSink, *, max_rows: int) -> None:
        self._residency = residency
        self._scorer = scorer
        self._sink = sink
        self._max_rows = max_rows
        self._queue: deque[ShadowJob] = deque()
        self._queued_rows = 0  # the job being worked on included
        self._finished_rows = 0  # of all that were ever queued
        self._dropped_rows = 0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work_on, name="shadow", daemon=True)

    @property
    def dropped(self) -> int:
        """Impressions that were to be scored and were not."""
        return self._dropped_rows

    @property
    def queued(self) -> int:
        return self._queued_rows

    def start(self) -> None:
        self._thread.start()

    def offer(self, rows: int, make: Callable[[], ShadowJob]) -> None:
        """Queue a job if there is room; `make` runs only then, since cutting out its rows costs time too."""
        with self._changed:
            is_full = self._queued_rows + rows > self._max_rows or len(self._queue) >= MAX_JOBS
            if is_full or self._is_stopping:
                self._dropped_rows += rows
                return
            self._queued_rows += rows
        job = None
        try:
            job = make()
        finally:
            with self._changed:
                if job is None:
                    self._finish(rows)
                else:
                    self._queue.append(job)
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
            self._dropped_rows += self._queued_rows
            self._finish(self._queued_rows)
            self._queue.clear()

    def _work_on(self) -> None:
        while (job := self._next()) is not None:
            rows = job.batch.num_rows
            try:
                self._score(job)
            except Exception:  # whatever a shadow's answer looks like, the next job gets its turn
                log.exception("the shadow %s failed on %d impressions", job.version_id, rows)
                with self._changed:
                    self._dropped_rows += rows
            finally:
                with self._changed:
                    self._finish(rows)

    def _finish(self, rows: int) -> None:
        """Call with the lock held."""
        self._queued_rows -= rows
        self._finished_rows += rows
        self._changed.notify_all()

    def _next(self) -> ShadowJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_stopping)
            return None if self._is_stopping else self._queue.popleft()

    def _score(self, job: ShadowJob) -> None:
        version = self._residency.get(job.version_id)
        if version is None:
            with self._changed:
                self._dropped_rows += job.batch.num_rows
            return
        scores = self._scorer.score_in_shadow(version, job.batch, patience_seconds=PATIENCE_SECONDS)
        is_sound_S = ~scores.bad_rows()
        if is_sound_S.any():
            record = job.impressions.where(is_sound_S).shadow_scores(job.version_id, scores.click_N[is_sound_S])
            self._sink.put(EventKind.SHADOW_SCORE, record)
