"""Light readers of the split stream, as many as asked for in one process: they note when which generation came.

Prints "ready" once every stream has begun, and on end of input one JSON object: (monotonic ns, generation) by reader.
"""

import argparse
import asyncio
import json
import re
import sys
import time

GENERATION = re.compile(rb'"generation":\s?(\d+)')
REQUEST = b"GET /v1/splits/stream HTTP/1.1\r\nHost: benchmark\r\nAccept: text/event-stream\r\n\r\n"
STARTED_TOGETHER = 50


class Reader(asyncio.Protocol):
    """One stream of one surface's splits."""

    def __init__(self) -> None:
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held: list[tuple[int, int]] = []
        self.is_lost = False
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            found = GENERATION.search(event)
            if found is not None:
                self.held.append((time.monotonic_ns(), int(found[1])))
                if not self.begun.done():
                    self.begun.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        if not self.begun.done():
            self.begun.set_exception(ConnectionError(f"the stream ended: {error}"))


async def read(port: int, count: int) -> list[Reader]:
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    while len(readers) < count:
        some = [
            (await loop.create_connection(Reader, "127.0.0.1", port))[1]
            for _ in range(min(STARTED_TOGETHER, count - len(readers)))
        ]
        await asyncio.gather(*(reader.begun for reader in some))
        readers += some
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    assert not any(reader.is_lost for reader in readers), "a stream ended"
    return readers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    readers = asyncio.run(read(arguments.port, arguments.count))
    print(json.dumps([reader.held for reader in readers]))


if __name__ == "__main__":
    main()
