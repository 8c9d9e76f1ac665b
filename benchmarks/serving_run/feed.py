"""A stand-in for the control plane: splits by poll and by push, and it takes heartbeats and events.

It lets the benchmark change a surface's shadow without a registry, and counts the events that came.
"""

import json
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from control_plane.domain.model_version import VersionId
from control_plane.domain.split import Split

STREAM = "/v1/splits/stream"
EVENTS = "/v1/events"


class Feed:
    """What runtimes are told, and how many events of each kind they sent."""

    def __init__(self) -> None:
        self.url = ""
        self.events: Counter[str] = Counter()
        self.body = b'{"splits": [], "versions": {}}'
        self.etag = "none"
        self._streams: list[queue.Queue[bytes | None]] = []

    def serve(self, split: Split, artifact_uris: Mapping[VersionId, str]) -> None:
        """Tell every runtime, now."""
        self.body = json.dumps({"splits": [split.to_json()], "versions": dict(artifact_uris)}).encode()
        self.etag = f'"{split.generation}"'
        for events in list(self._streams):
            events.put(self.body)

    def hang_up(self) -> None:
        for events in list(self._streams):
            events.put(None)

    def follow(self) -> Iterator[bytes]:
        events: queue.Queue[bytes | None] = queue.Queue()
        self._streams.append(events)
        while (body := events.get()) is not None:
            yield b"event: splits\ndata: " + body + b"\n\n"
        self._streams.remove(events)


@contextmanager
def feed() -> Iterator[Feed]:
    """Listens on a free port in this process, whose CPU is nobody's figure."""
    fed = Feed()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # one answer a connection: nothing lingers once the feed is gone

        def do_GET(self) -> None:
            if self.path == STREAM:
                self._stream()
            else:
                is_known = self.headers.get("If-None-Match") == fed.etag
                self._answer(b"" if is_known else fed.body, status=304 if is_known else 200)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = urlsplit(self.path)
            if asked.path != EVENTS:
                self._answer(b"{}")
                return
            with pa.ipc.open_stream(body) as reader:
                rows = reader.read_all().num_rows
            fed.events[parse_qs(asked.query)["kind"][0]] += rows
            self._answer(json.dumps({"accepted": rows, "refused": 0, "reasons": {}}).encode())

        def _answer(self, body: bytes, *, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("ETag", fed.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                self.wfile.write(b": hello\n\n")
                for event in fed.follow():
                    self.wfile.write(event)
            except OSError:  # the runtime went away
                pass

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's own name
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        fed.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield fed
        finally:
            fed.hang_up()
            server.shutdown()
            thread.join()
