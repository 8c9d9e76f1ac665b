"""A line between a runtime and its control plane, on which streams of splits can be cut while all else passes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STREAM = b"GET /v1/splits/stream"
CHUNK_BYTES = 65_536


class CutLine:
    """Listens on a port of its own; a connection's first request says whether it is a stream."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._streams: list[socket.socket] = []
        self._is_cut = threading.Event()
        self.num_refused = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @classmethod
    @contextmanager
    def to(cls, port: int) -> Iterator["CutLine"]:
        line = cls(port)
        thread = threading.Thread(target=line._accept, daemon=True)
        thread.start()
        try:
            yield line
        finally:
            line._listener.shutdown(socket.SHUT_RDWR)
            line._listener.close()
            thread.join()

    def cut_push(self) -> None:
        """Streams that are open break off; new ones are refused."""
        self._is_cut.set()
        for stream in self._streams:
            _hang_up(stream)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def _connect(self, caller: socket.socket) -> None:
        with suppress(OSError), caller:
            first = caller.recv(CHUNK_BYTES)
            if first.startswith(STREAM) and self._is_cut.is_set():
                self.num_refused += 1
                return
            with socket.create_connection(self._target) as target:
                if first.startswith(STREAM):
                    self._streams += [caller, target]
                target.sendall(first)
                back = threading.Thread(target=_pass_on, args=(target, caller), daemon=True)
                back.start()
                _pass_on(caller, target)
                back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            sink.sendall(chunk)
    _hang_up(sink)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
