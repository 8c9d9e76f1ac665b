"""Who is told by webhook while those who tell die: at least once, and of each surface in order."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sqlalchemy import select

from benchmarks.crash_run.violation import Violation
from control_plane.registry.session import Sessions
from control_plane.registry.tables import OutboxRow, WebhookDeliveryRow

NAME = "crash"


class Receiver:
    """Ids of events in the order in which they first came."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}  # how often each came
        self._lock = threading.Lock()
        received = self._received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # whoever sent it died over it
                    return
                received(json.loads(body)["id"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def setting(self) -> str:
        """For SUREFOOT_WEBHOOKS."""
        url = f"http://127.0.0.1:{self._server.server_port}/"
        return json.dumps([{"name": NAME, "url": url, "secret": "whsec_" + "A" * 32}])

    @contextmanager
    def listening(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def problems(self, sessions: Sessions) -> Iterator[Violation]:
        """What is marked as delivered came; and of one key, none came before one that was written earlier."""
        with sessions.reading() as session:
            delivered = set(
                session.scalars(
                    select(WebhookDeliveryRow.outbox_id).where(WebhookDeliveryRow.delivered_at.is_not(None))
                )
            )
            written = session.execute(select(OutboxRow.outbox_id, OutboxRow.ordering_key, OutboxRow.event)).all()
        number_of = {json.loads(row.event)["id"]: (row.ordering_key, row.outbox_id) for row in written}
        came = {number_of[event_id][1] for event_id in self.ids if event_id in number_of}
        for lost in sorted(delivered - came):
            yield Violation(invariant="outbox", where=f"event {lost}", what="is marked as delivered, and never came")
        latest: dict[str | None, int] = {}
        for event_id in self.ids:
            key, number = number_of.get(event_id, (None, 0))
            if number < latest.get(key, 0):
                yield Violation(invariant="outbox", where=event_id, what=f"came after event {latest[key]} of {key}")
            latest[key] = max(latest.get(key, 0), number)

    def _received(self, event_id: str) -> None:
        with self._lock:
            self.ids[event_id] = self.ids.get(event_id, 0) + 1
