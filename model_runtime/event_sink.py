"""Events on their way to the control plane: buffered within a bound, sent in the background, dropped by count."""

import json
import logging
import math
import threading
from collections import Counter, deque
from dataclasses import dataclass

import pyarrow as pa

from control_plane.domain.events import EventKind
from model_runtime.control_link import Answer, Backoff, ControlLink, Unreachable

EVENTS_PATH = "/v1/events"
CONTENT_TYPE = "application/vnd.apache.arrow.stream"
ROWS_PER_POST = 100_000  # some megabytes: few round trips, and a lost one repeats little
MERGE_AT = 256  # batches: one of a single row takes 6 KB, of which merging leaves 70 bytes
LINGER_SECONDS = 0.05  # small batches wait this long for company
MAX_INTERNAL_ERRORS = 5  # a body on which the control plane fails this often would block all behind it
SEND_TIMEOUT_SECONDS = 60.0  # a large post on a busy control plane takes seconds

Numbered = tuple[int, pa.RecordBatch]  # batches count up as they come

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkCounts:
    """Rows by what became of them. `refused` came back from the control plane, `dropped` never left."""

    buffered: int = 0
    accepted: int = 0
    refused: int = 0
    dropped: int = 0
    failed_posts: int = 0


class EventSink:
    """Takes record batches without waiting. A post that fails is repeated: the log counts each event once."""

    def __init__(self, base_url: str, *, token: str = "", max_rows: int = 1_000_000) -> None:
        self._link = ControlLink(base_url, token=token, timeout_seconds=SEND_TIMEOUT_SECONDS)
        self._max_rows = max_rows
        self._buffers: dict[EventKind, deque[Numbered]] = {kind: deque() for kind in EventKind}
        self._unmerged = dict.fromkeys(EventKind, 0)  # batches since the last merge
        self._in_flight: list[Numbered] = []
        self._counts: Counter[str] = Counter()
        self._last_number = 0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._num_flushing = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_on, name="event-sink", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, kind: EventKind, batch: pa.RecordBatch) -> None:
        """Buffer the batch, or drop it and count its rows if the buffer is full."""
        with self._changed:
            if batch.num_rows == 0:
                return
            if self._counts["buffered"] + batch.num_rows > self._max_rows or self._is_stopping:
                self._counts["dropped"] += batch.num_rows
                return
            self._last_number += 1
            self._buffers[kind].append((self._last_number, batch))
            self._counts["buffered"] += batch.num_rows
            self._unmerged[kind] += 1
            if self._unmerged[kind] >= MERGE_AT:
                self._unmerged[kind] = 0
                _merge_last(self._buffers[kind])
            self._changed.notify_all()

    def counts(self) -> SinkCounts:
        with self._changed:
            return SinkCounts(**self._counts)

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything put so far was answered; False if time ran out first."""
        with self._changed:
            last = self._last_number
            self._num_flushing += 1
            self._changed.notify_all()
            is_done = self._changed.wait_for(lambda: self._oldest() > last, timeout_seconds)
            self._num_flushing -= 1
            return is_done

    def stop(self, timeout_seconds: float) -> None:
        """Send what is buffered, as far as time allows; the rest is dropped and counted."""
        self.flush(timeout_seconds)
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._stop.set()
        while self._thread.is_alive():
            self._link.close()
            self._thread.join(0.2)
        self._link.close()
        with self._changed:
            self._counts["dropped"] += self._counts["buffered"]
            self._counts["buffered"] = 0
        if dropped := self._counts["dropped"]:
            log.warning("%d events were dropped", dropped)

    def _send_on(self) -> None:
        while (kind := self._take()) is not None:
            batches = [batch for _, batch in self._in_flight]
            rows = sum(batch.num_rows for batch in batches)
            accepted = self._encode_and_send(kind, batches)
            with self._changed:
                self._in_flight = []
                self._counts["buffered"] -= rows
                self._counts["accepted"] += accepted
                self._counts["refused" if not self._stop.is_set() else "dropped"] += rows - accepted
                self._changed.notify_all()

    def _take(self) -> EventKind | None:
        """Wait for batches and take off the oldest, with those of its kind behind it; None when stopping.

        Exposures and shadow scores come in turns, so a post of neighbours alone would carry one batch.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._counts["buffered"] or self._is_stopping)
            self._changed.wait_for(lambda: self._is_full() or self._num_flushing or self._is_stopping, LINGER_SECONDS)
            if self._is_stopping:
                return None
            kind = min((kind for kind in EventKind if self._buffers[kind]), key=lambda kind: self._buffers[kind][0][0])
            waiting, rows = self._buffers[kind], 0
            while waiting and (rows == 0 or rows + waiting[0][1].num_rows <= ROWS_PER_POST):
                self._in_flight.append(waiting.popleft())
                rows += self._in_flight[-1][1].num_rows
            return kind

    def _oldest(self) -> float:
        """Number of the oldest batch that has no answer yet."""
        waiting = [numbered[0][0] for numbered in (self._in_flight, *self._buffers.values()) if numbered]
        return min(waiting, default=math.inf)

    def _is_full(self) -> bool:
        return self._counts["buffered"] >= ROWS_PER_POST

    def _encode_and_send(self, kind: EventKind, batches: list[pa.RecordBatch]) -> int:
        try:
            return self._send(kind, _arrow_stream(batches))
        except Exception:  # one bad post must not end the thread that sends all others
            log.exception("a post of %s events failed; they are lost", kind)
            return 0

    def _send(self, kind: EventKind, body: bytes) -> int:
        """Post until it is answered; return how many rows were accepted."""
        backoff = Backoff()
        internal_errors = 0
        while not self._stop.is_set() and internal_errors < MAX_INTERNAL_ERRORS:
            try:
                answer = self._link.request(
                    "POST", f"{EVENTS_PATH}?kind={kind}", body=body, headers={"Content-Type": CONTENT_TYPE}
                )
                if answer.status < 500 and answer.status not in (408, 425, 429):
                    return _accepted(answer)
                problem = f"answered {answer.status}"
                internal_errors += answer.status == 500
            except Unreachable as error:
                problem = str(error)
            with self._changed:
                self._counts["failed_posts"] += 1
            log.warning("events wait: %s", problem)
            self._stop.wait(backoff.failed())
        return 0


def _merge_last(waiting: deque[Numbered]) -> None:
    """Make one batch of the last `MERGE_AT`, if they are small; it keeps the number of its oldest."""
    last = [waiting.pop() for _ in range(min(MERGE_AT, len(waiting)))][::-1]
    if sum(batch.num_rows for _, batch in last) > ROWS_PER_POST:
        waiting.extend(last)
        return
    table = pa.Table.from_batches([batch for _, batch in last]).unify_dictionaries().combine_chunks()
    waiting.extend((last[0][0], batch) for batch in table.to_batches())


def _arrow_stream(batches: list[pa.RecordBatch]) -> bytes:
    table = pa.Table.from_batches(batches).unify_dictionaries()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _accepted(answer: Answer) -> int:
    """Rows the control plane kept; a body it refuses whole is lost, and told."""
    if answer.status >= 300:
        log.error("events refused with %d: %s", answer.status, answer.body[:500].decode("utf-8", "replace"))
        return 0
    try:
        receipt = json.loads(answer.body)
        if receipt["refused"]:
            log.warning("%d events refused: %s", receipt["refused"], receipt["reasons"])
        return int(receipt["accepted"])
    except (ValueError, KeyError, TypeError):
        log.error("events got an answer that is no receipt: %s", answer.body[:500].decode("utf-8", "replace"))
        return 0
