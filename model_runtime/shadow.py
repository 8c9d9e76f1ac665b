"""Scores what stable served once more, with each shadow version, when there is time.

Every version has a queue of its own, bounded in rows, and they take turns: a slow one costs no other its evidence.
What does not fit is dropped and counted: no answer ever waits for a shadow. Where stable's trunk has read the rows
already, so little is left to do that jobs wait a moment for each other: to wake up costs more than what they ask for.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from control_plane.domain.events import EventKind
from control_plane.domain.model_version import VersionId
from model_runtime.checkpoints import Activations
from model_runtime.event_sink import EventSink
from model_runtime.impressions import Impressions
from model_runtime.kept import joined, num_bytes
from model_runtime.networks.features import RowBatch
from model_runtime.residency import Residency
from model_runtime.scorer import Scorer
from model_runtime.scores import Scores

PATIENCE_SECONDS = 0.25  # that a shadow waits for a moment in which nobody is answered; then it trickles
LINGER_SECONDS = 0.2  # that a job which needs a head alone waits for others: evidence is in no hurry
MAX_TOGETHER = 32  # of such jobs
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
    def is_read(self) -> bool:
        """Whether the trunk has read the rows, so that the version's head is all that is needed."""
        return not isinstance(self.rows, RowBatch)

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
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._may_begin = threading.Condition(lock)  # told apart, so that a job wakes nobody who waits for more
        self._num_draining = 0
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
                    self._hurry()

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until what is queued now is done; False if time ran out first."""
        with self._changed:
            wanted_rows = self._finished_rows + self._queued_rows
            self._num_draining += 1
            self._hurry()
            is_done = self._changed.wait_for(lambda: self._finished_rows >= wanted_rows, timeout_seconds)
            self._num_draining -= 1
            return is_done

    def stop(self) -> None:
        """Finish the job at hand and drop the rest."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            self._hurry()
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            for version_id, rows in list(self._queued_rows.items()):
                self._dropped_rows[version_id] += rows
                self._finish(version_id, rows)
            self._queues.clear()
            self._queued_bytes.clear()

    def _work_on(self) -> None:
        while jobs := self._next():
            for job, scores in zip(jobs, self._score(jobs), strict=True):
                is_sent = scores is not None and self._send(job, scores)
                with self._changed:
                    self._dropped_rows[job.version_id] += 0 if is_sent else job.num_rows
                    self._finish(job.version_id, job.num_rows)

    def _finish(self, version_id: VersionId, rows: int) -> None:
        """Call with the lock held."""
        self._queued_rows[version_id] -= rows
        self._finished_rows[version_id] += rows
        self._changed.notify_all()

    def _next(self) -> list[ShadowJob]:
        """Wait for work: one job, or several of a version that need its head alone; none when stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._queues or self._is_stopping)
            self._may_begin.wait_for(self._has_enough, LINGER_SECONDS)
            if self._is_stopping:
                return []
            version_id, waiting = next(iter(self._queues.items()))
            del self._queues[version_id]
            jobs = [waiting.popleft()]
            while waiting and jobs[0].is_read and waiting[0].is_read and len(jobs) < MAX_TOGETHER:
                jobs.append(waiting.popleft())
            self._queued_bytes[version_id] -= sum(job.num_bytes for job in jobs)
            if waiting:
                self._queues[version_id] = waiting  # last in turn now
            return jobs

    def _has_enough(self) -> bool:
        """Whether there is no reason to wait for more jobs of the version whose turn it is."""
        waiting = next(iter(self._queues.values()), deque())
        is_worth_it = len(waiting) >= MAX_TOGETHER or any(not job.is_read for job in waiting)
        return is_worth_it or self._num_draining > 0 or self._is_stopping

    def _hurry(self) -> None:
        """Call with the lock held."""
        if self._has_enough():
            self._may_begin.notify_all()

    def _score(self, jobs: Sequence[ShadowJob]) -> Sequence[Scores | None]:
        """By job; None where it could not be scored."""
        version = self._residency.get(jobs[0].version_id)
        if version is None:
            return [None] * len(jobs)
        rows = [job.rows for job in jobs]
        try:
            if isinstance(rows[0], RowBatch):
                return [self._scorer.score_in_shadow(version, rows[0], patience_seconds=PATIENCE_SECONDS)]
            activations = joined([each for each in rows if isinstance(each, Activations)])
            scores = self._scorer.score_kept(version, activations, patience_seconds=PATIENCE_SECONDS)
        except Exception:  # whatever a shadow's answer looks like, the next job gets its turn
            log.exception("the shadow %s failed on %d jobs", jobs[0].version_id, len(jobs))
            return [None] * len(jobs)
        ends = list(accumulate(job.num_rows for job in jobs))
        return [scores.rows(slice(start, end)) for start, end in pairwise([0, *ends])]

    def _send(self, job: ShadowJob, scores: Scores) -> bool:
        """False where the job could not be told."""
        is_sound_S = ~scores.bad_rows()
        try:
            if is_sound_S.any():
                record = job.impressions.where(is_sound_S).shadow_scores(job.version_id, scores.click_N[is_sound_S])
                self._sink.put(EventKind.SHADOW_SCORE, record)
        except Exception:  # whatever it is, the next job gets its turn
            log.exception("the shadow %s failed on %d impressions", job.version_id, job.num_rows)
            return False
        return True
