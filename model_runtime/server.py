"""The scoring runtime as a process: an engine behind its HTTP door, from its first split to its last event."""

import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType

import torch
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_runtime.connections import Connection
from model_runtime.door import Door
from model_runtime.engine import Engine
from model_runtime.settings import RuntimeSettings, read_settings

QUIET_SECONDS = 0.5  # without a request: whoever sent them has seen that this runtime ends
MOST_LATE_SECONDS = 10.0  # that a draining runtime stays for callers who do not see it

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; 2 if the address cannot be had."""
    settings = read_settings(argv)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if unusable := _unusable(settings):
        print(unusable, file=sys.stderr)
        return 2
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        # `socket` repeats the address in its own wording; a host that is not found has no errno above 0.
        problem = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        print(f"cannot listen on {settings.host}:{settings.port}: {problem}; --port chooses another", file=sys.stderr)
        return 2
    with listener:
        serve(settings, listener)
    return 0


def _unusable(settings: RuntimeSettings) -> str:
    """What would otherwise show only once the first version loads, or once a restart finds no splits."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--data-dir {settings.data_dir}: {error.strerror}"
    kind, _, index = settings.device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        return f"--device {settings.device}: this machine has {torch.cuda.device_count()} such devices"
    return ""


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything is loaded, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=512)
    # asyncio does this only for sockets that name their protocol; without it small answers wait 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(settings: RuntimeSettings, listener: socket.socket) -> None:
    """Run until a signal; then answer what was taken in and send what was logged.

    SIGTERM takes readiness away first and leaves the door open for the settings' time, so that balancers turn away
    before it closes; Ctrl-C and a second signal close it at once.
    """
    torch.set_num_threads(settings.torch_threads)
    engine = Engine(settings)
    server = make_server(engine)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn catches it, stops, and raises it again for whoever was there before: that is nobody.
        signal.signal(number, lambda *_: None)
    engine.start()
    host, port = listener.getsockname()[:2]
    log.info("runtime %s listens on http://%s:%d", settings.runtime_id, host, port)
    try:
        server.run(sockets=[listener])
    finally:
        engine.stop()


def make_server(engine: Engine) -> "DrainingServer":
    door = Door(engine)
    config = uvicorn.Config(
        closing(door),
        http=Connection,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=max(1, round(engine.settings.stop_seconds)),
    )
    return DrainingServer(config, door, engine.settings.drain_seconds)


class DrainingServer(uvicorn.Server):
    """Goes on serving for a while after SIGTERM, and for as long as callers come, without being ready any more."""

    def __init__(self, config: uvicorn.Config, door: Door, drain_seconds: float) -> None:
        super().__init__(config)
        self._door = door
        self._drain_seconds = drain_seconds
        self._ends_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM or self._door.is_draining:
            super().handle_exit(sig, frame)
            return
        self._door.is_draining = True
        self._ends_at = time.monotonic() + self._drain_seconds
        log.info("not ready any more; the door closes in %g s", self._drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        late_seconds = time.monotonic() - self._ends_at
        if late_seconds >= 0 and (self._door.quiet_seconds >= QUIET_SECONDS or late_seconds >= MOST_LATE_SECONDS):
            self.should_exit = True
        return await super().on_tick(counter)


def closing(door: Door) -> ASGIApp:
    """The door's routes; once it drains, each answer ends its connection: nobody then writes into one that closes."""
    routes = door.app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and door.is_draining:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await routes(scope, receive, send_closing)

    return app
