"""A small server that speaks the splits' part of the API and does what it is told: answers, errors, silence."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from control_plane.domain.split import Split


class SplitStub:
    """What it answers is set by the test; what it was asked is kept."""

    def __init__(self) -> None:
        self.body = b'{"splits": [], "versions": {}}'
        self.etag = "none"
        self.answers_with = 200
        self.asked: list[tuple[int, str | None]] = []  # what was answered, and the etag sent along
        self.streams = 0
        self._events: list[queue.Queue[bytes | None]] = []
        self._server: ThreadingHTTPServer | None = None

    def serve(self, *splits: Split, etag: str) -> None:
        """Answer with these splits from now on, without a word on the streams."""
        versions = {v: f"/models/{v}" for split in splits for v in (split.stable, split.candidate, split.shadow) if v}
        self.body = json.dumps({"splits": [split.to_json() for split in splits], "versions": versions}).encode()
        self.etag = etag

    def push(self) -> None:
        """Send what is served over every open stream."""
        for events in list(self._events):
            events.put(b"event: splits\ndata: " + self.body + b"\n\n")

    def hang_up(self) -> None:
        """End every open stream."""
        for events in list(self._events):
            events.put(None)

    def follow(self) -> Iterator[bytes]:
        events: queue.Queue[bytes | None] = queue.Queue()
        self._events.append(events)
        self.streams += 1
        while (event := events.get()) is not None:
            yield event
        self._events.remove(events)


@contextmanager
def split_stub(port: int = 0) -> Iterator[tuple[SplitStub, str]]:
    stub = SplitStub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # a connection an answer: nothing lingers once the stub is gone

        def do_GET(self) -> None:
            if self.path == "/v1/splits/stream":
                self._stream()
            else:
                self._answer()

        def _answer(self) -> None:
            known = self.headers.get("If-None-Match")
            status = 304 if stub.answers_with == 200 and known == stub.etag else stub.answers_with
            stub.asked.append((status, known))
            body = b"" if status == 304 else stub.body
            self.send_response(status)
            self.send_header("ETag", stub.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                self.wfile.write(b": hello\n\n")
                for event in stub.follow():
                    self.wfile.write(event)
            except OSError:  # the reader went away
                pass

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's own name
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            stub.hang_up()
            server.shutdown()
            thread.join()
