"""Events on their way to the control plane: buffered within a bound, sent in the background, dropped by count."""

import json
import logging
import threading
from collections import Counter, deque
from dataclasses import dataclass

import pyarrow as pa

from control_plane.domain.events import EventKind
from model_runtime.control_link import Answer, Backoff, ControlLink, Unreachable

EVENTS_PATH = "/v1/events"
CONTENT_TYPE = "application/vnd.apache.arrow.stream"
ROWS_PER_POST = 100_000  # some megabytes: few round trips, and a lost one repeats little
LINGER_SECONDS = 0.05  # small batches wait this long for company
MAX_INTERNAL_ERRORS = 5  # a body on which the control plane fails this often would block all behind it
SEND_TIMEOUT_SECONDS = 60.0  # a large post on a busy control plane takes seconds

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
        self._buffer: deque[tuple[EventKind, pa.RecordBatch]] = deque()
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._is_hurried = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_on, name="event-sink", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, kind: EventKind, batch: pa.RecordBatch) -> None:
        """Buffer the batch, or drop it and count its rows if the buffer is full."""
        with self._changed:
            if self._counts["buffered"] + batch.num_rows > self._max_rows or self._is_stopping:
                self._counts["dropped"] += batch.num_rows
                return
            self._buffer.append((kind, batch))
            self._counts["buffered"] += batch.num_rows
            self._changed.notify_all()

    def counts(self) -> SinkCounts:
        with self._changed:
            return SinkCounts(**self._counts)

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything put so far was answered; False if time ran out first."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            is_done = self._changed.wait_for(lambda: self._counts["buffered"] == 0, timeout_seconds)
            self._is_hurried = False
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
        while (taken := self._take()) is not None:
            kind, batches = taken
            rows = sum(batch.num_rows for batch in batches)
            accepted = self._send(kind, _arrow_stream(batches))
            with self._changed:
                self._counts["buffered"] -= rows
                self._counts["accepted"] += accepted
                self._counts["refused" if not self._stop.is_set() else "dropped"] += rows - accepted
                self._changed.notify_all()

    def _take(self) -> tuple[EventKind, list[pa.RecordBatch]] | None:
        """Wait for batches and take the oldest with others of its kind; None when stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._is_stopping)
            self._changed.wait_for(lambda: self._is_full() or self._is_hurried or self._is_stopping, LINGER_SECONDS)
            if self._is_stopping:
                return None
            return self._take_kind(self._buffer[0][0])

    def _take_kind(self, kind: EventKind) -> tuple[EventKind, list[pa.RecordBatch]]:
        """The buffered batches of one kind up to a post's size; exposures and shadow scores come in turns."""
        batches: list[pa.RecordBatch] = []
        others: deque[tuple[EventKind, pa.RecordBatch]] = deque()
        rows = 0
        while self._buffer and (not batches or rows < ROWS_PER_POST):
            its_kind, batch = self._buffer.popleft()
            if its_kind is not kind or (batches and rows + batch.num_rows > ROWS_PER_POST):
                others.append((its_kind, batch))
                continue
            batches.append(batch)
            rows += batch.num_rows
        self._buffer.extendleft(reversed(others))
        return kind, batches

    def _is_full(self) -> bool:
        return self._counts["buffered"] >= ROWS_PER_POST

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
    receipt = json.loads(answer.body)
    if receipt.get("refused"):
        log.warning("events refused: %s", receipt.get("reasons"))
    return int(receipt["accepted"])
