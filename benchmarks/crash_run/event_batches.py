"""Events on their way into the log while those who take them die: what was acknowledged is there, and once."""

import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.crash_run.violation import Violation
from control_plane.clock import Clock
from control_plane.domain.events import EventKind
from control_plane.evidence.event_log import EventLog
from control_plane.registry import surfaces
from control_plane.registry.session import Sessions

ROWS = 4
NDJSON = {"Content-Type": "application/x-ndjson"}


class EventBatches:
    """Which impressions were sent, and which batches were taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent: list[tuple[range, bool]] = []

    @property
    def acknowledged(self) -> int:
        return sum(is_taken for _, is_taken in self._sent)

    def note(self, impressions: range, *, is_taken: bool) -> None:
        self._sent.append((impressions, is_taken))

    def problems(self) -> Iterator[Violation]:
        """A batch is there whole or not at all; one that was taken is there, and none is there twice."""
        found: dict[int, int] = {}
        for impression_id in EventLog(self._folder).read(EventKind.EXPOSURE)["impression_id"].to_pylist():
            found[impression_id] = found.get(impression_id, 0) + 1
        for impressions, is_taken in self._sent:
            times = {found.pop(impression_id, 0) for impression_id in impressions}
            where = f"impressions {impressions.start} to {impressions.stop - 1}"
            if len(times) > 1 or max(times) > 1:
                yield Violation(invariant="8", where=where, what=f"are in the log {sorted(times)} times")
            elif is_taken and times == {0}:
                yield Violation(invariant="answers", where=where, what="were acknowledged, and are lost")
        if found:
            yield Violation(invariant="8", where="the event log", what=f"has {len(found)} impressions nobody sent")


class Reporter(threading.Thread):
    """Sends a batch after another, each once, to one replica or another."""

    def __init__(self, batches: EventBatches, ports: Sequence[int], sessions: Sessions, clock: Clock) -> None:
        super().__init__(daemon=True)
        self.rest = threading.Event()
        self.problems: list[str] = []
        self._batches = batches
        self._ports = ports
        self._sessions = sessions
        self._clock = clock
        self._next = 1

    def run(self) -> None:
        while not self.rest.wait(0.1):
            try:
                self._report()
            except Exception as error:  # told in the end: a silent reporter would make the run easier
                self.problems.append(f"{type(error).__name__}: {error}")

    def _report(self) -> None:
        impressions = range(self._next, self._next + ROWS)
        self._next += ROWS
        body = "\n".join(json.dumps(row) for row in self._rows(impressions))
        self._batches.note(impressions, is_taken=self._is_taken(self._ports[self._next % len(self._ports)], body))

    def _rows(self, impressions: range) -> Iterator[dict[str, object]]:
        now = self._clock()
        with self._sessions.reading() as session:
            split = next(iter(surfaces.splits(session, now=now).values()))
        for impression_id in impressions:
            yield {
                "kind": EventKind.EXPOSURE.value,
                "impression_id": impression_id,
                "user_key": impression_id * 7919,
                "served_at_ms": round(now.timestamp() * 1_000) - 1_000,
                "surface": split.surface,
                "view_type": "grid",
                "generation": split.generation,
                "arm": "stable",
                "version_id": split.stable,
                "score": 0.2,
            }

    def _is_taken(self, port: int, body: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", "/v1/events", body, NDJSON)
            response = connection.getresponse()
            said = json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if response.status == 200 and said["accepted"] != ROWS:
            self.problems.append(f"events were refused: {said}")
        return response.status == 200
