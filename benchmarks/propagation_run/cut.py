"""A relay between runtimes and the control plane that lets questions through and can cut the push."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

STREAM = b"/v1/splits/stream"
CHUNK = 65_536


class Push(StrEnum):
    THROUGH = "through"
    SILENT = "silent"  # streams stay open and say nothing
    CLOSED = "closed"  # streams end, and none begins


class Relay:
    """On a port of its own, in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.push = Push.THROUGH
        self.port = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._streams: set[asyncio.StreamWriter] = set()

    @contextmanager
    def running(self) -> Iterator["Relay"]:
        thread = threading.Thread(target=self._run, daemon=True)
        begun = self._loop.create_future()
        self._begun = begun
        thread.start()
        while not self.port:
            thread.join(0.01)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def cut(self, push: Push) -> None:
        self.push = push
        if push is Push.CLOSED:
            self._loop.call_soon_threadsafe(self._close_streams)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _close_streams(self) -> None:
        for writer in self._streams:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            asked = await reader.read(CHUNK)
            is_stream = STREAM in asked
            if is_stream and self.push is Push.CLOSED:
                writer.close()
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            up_writer.write(asked)
            if is_stream:
                self._streams.add(writer)
            await asyncio.gather(_carry(reader, up_writer), self._answers(up_reader, writer, is_stream=is_stream))

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_stream: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if not is_stream or self.push is Push.THROUGH:
                    writer.write(data)
                    await writer.drain()
        writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()
