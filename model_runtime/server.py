"""The runtime's HTTP door: Open Inference Protocol V2, a flush for replays, and metrics."""

import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import torch
import uvicorn
from anyio import to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.model_version import Surface, VersionId
from model_runtime.engine import Engine
from model_runtime.metrics import EngineCollector
from model_runtime.networks.features import OPTIONAL_FIELDS, FeatureSpec
from model_runtime.protocol import HEADER_LENGTH, Encoded, decode_request, encode_response
from model_runtime.scores import HEADS
from model_runtime.scoring_request import BATCH_FIELDS, USER_KEY
from model_runtime.settings import RuntimeSettings, read_settings
from model_runtime.unavailable import Unavailable

FLUSH_SECONDS = 55.0  # below the minute after which most clients give up
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

log = logging.getLogger(__name__)


class Door:
    """The routes over one engine. The network runs in threads, so that health and metrics always answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._workers = anyio.CapacityLimiter(engine.settings.workers)
        self._flushers = anyio.CapacityLimiter(4)
        self._taken_in = 0
        self._held_bytes = 0
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine))
        self._seconds = Histogram(
            "surefoot_runtime_request_seconds",
            "Time from a request's last byte to its answer",
            ["surface"],
            buckets=SECONDS_BUCKETS,
            registry=self._registry,
        )

    def app(self) -> Starlette:
        model, version = "/v2/models/{surface}", "/v2/models/{surface}/versions/{version}"
        return Starlette(
            routes=[
                Route("/v2/health/live", self.live),
                Route("/v2/health/ready", self.ready),
                Route("/v2", self.server_metadata),
                Route("/v2/repository/index", self.repository_index, methods=["POST"]),
                *(Route(path, self.model_metadata) for path in (model, version)),
                *(Route(f"{path}/ready", self.model_ready) for path in (model, version)),
                *(Route(f"{path}/infer", self.infer, methods=["POST"]) for path in (model, version)),
                Route("/v1/flush", self.flush, methods=["POST"]),
                Route("/metrics", self.metrics),
            ],
            exception_handlers=ERROR_HANDLERS,
        )

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        """Ready once every surface with a split can be answered."""
        table = self._engine.table
        serving = table.splits()
        is_ready = bool(serving) and all(self._serves(surface) for surface in (*serving, *table.ordered()))
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def server_metadata(self, _: Request) -> Response:
        return JSONResponse({"name": "surefoot", "version": "0.1.0", "extensions": ["binary_tensor_data"]})

    async def repository_index(self, _: Request) -> Response:
        """Every version in memory, and those that were wanted and do not load, with the reason."""
        ready = [{"name": surface, "version": v, "state": "READY"} for v, surface in self._engine.versions()]
        failed = [
            {"name": "", "version": version_id, "state": "UNAVAILABLE", "reason": reason}
            for version_id, reason in self._engine.residency.failures().items()
        ]
        return JSONResponse(ready + failed)

    async def model_metadata(self, request: Request) -> Response:
        surface, version_id = _names(request)
        version = self._engine.version(surface, version_id or self._engine.split(surface).stable)
        loaded = [v for v, its_surface in self._engine.versions() if its_surface == surface]
        tensors = metadata(version.spec, surface, is_routed=not version_id)
        return JSONResponse({"name": surface, "versions": loaded, **tensors})

    async def model_ready(self, request: Request) -> Response:
        surface, version_id = _names(request)
        is_ready = self._serves(surface) if version_id is None else bool(self._engine.version(surface, version_id))
        return JSONResponse({"name": surface, "ready": is_ready}, status_code=200 if is_ready else 503)

    async def infer(self, request: Request) -> Response:
        surface, version_id = _names(request)
        self._refuse_if_full()
        async with self._body(request) as body:
            answer = await self._infer(surface, version_id, body, request.headers.get(HEADER_LENGTH))
        if answer.header_length is None:
            return Response(answer.body, media_type="application/json")
        headers = {HEADER_LENGTH: str(answer.header_length)}
        return Response(answer.body, media_type="application/octet-stream", headers=headers)

    async def _infer(
        self, surface: Surface, version_id: VersionId | None, body: bytes, header_length: str | None
    ) -> Encoded:
        """A request takes a place only once it is whole: slow senders must not keep the others out."""
        self._refuse_if_full()
        self._taken_in += 1
        try:
            with self._seconds.labels(surface if self._engine.table.split(surface) else "unknown").time():
                return await to_thread.run_sync(
                    self._answer, surface, version_id, body, header_length, limiter=self._workers
                )
        finally:
            self._taken_in -= 1

    async def flush(self, _: Request) -> Response:
        if not await to_thread.run_sync(self._engine.flush, FLUSH_SECONDS, limiter=self._flushers):
            raise Unavailable(f"events are still waiting for the control plane after {FLUSH_SECONDS:g} s")
        return JSONResponse({"flushed": True})

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def _answer(
        self, surface: Surface, version_id: VersionId | None, body: bytes, header_length: str | None
    ) -> Encoded:
        request = decode_request(body, header_length)
        inference = self._engine.infer(surface, version_id, request)
        return encode_response(
            request,
            inference.outputs,
            model_name=surface,
            model_version=inference.version_id,
            parameters=inference.parameters,
        )

    def _refuse_if_full(self) -> None:
        if self._taken_in >= self._settings.max_waiting:
            raise Unavailable(f"{self._taken_in} requests are waiting; try another replica, or later")

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, which counts as held until it is answered."""
        chunks: list[bytes] = []
        try:
            await self._receive(request, chunks)
            yield b"".join(chunks)
        finally:
            self._held_bytes -= sum(map(len, chunks))

    async def _receive(self, request: Request, chunks: list[bytes]) -> None:
        settings, size = self._settings, 0
        try:
            with anyio.fail_after(settings.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._held_bytes += len(chunk)
                    if size > settings.max_body_bytes:
                        raise HTTPException(413, f"body: may have at most {settings.max_body_bytes} bytes")
                    if self._held_bytes > settings.max_held_bytes:
                        raise Unavailable("the requests at hand fill the memory; try another replica, or later")
        except TimeoutError:
            raise HTTPException(408, f"body: must come within {settings.body_seconds:g} s") from None

    def _serves(self, surface: Surface) -> bool:
        return self._engine.residency.get(self._engine.split(surface).stable) is not None


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
    """Run until a signal; then answer what was taken in and send what was logged."""
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


def make_server(engine: Engine) -> uvicorn.Server:
    config = uvicorn.Config(
        Door(engine).app(),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(engine.settings.stop_seconds),
    )
    return uvicorn.Server(config)


def metadata(spec: FeatureSpec, surface: Surface, *, is_routed: bool) -> dict[str, object]:
    """Names, datatypes and shapes of inputs and outputs; −1 is any number."""
    widths = {name: width for name, width in spec.widths(surface).items() if width or name not in OPTIONAL_FIELDS}
    inputs: list[dict[str, object]] = [
        {
            "name": name,
            "datatype": "FP32" if "_dense_" in name else "INT64",
            "shape": [-1, widths[name]] if name in widths else [-1],
        }
        for name in BATCH_FIELDS
        if name in widths or name not in OPTIONAL_FIELDS
    ]
    outputs: list[dict[str, object]] = [{"name": head, "datatype": "FP32", "shape": [-1]} for head in HEADS]
    if is_routed:
        inputs.append({"name": USER_KEY, "datatype": "UINT64", "shape": [-1]})
        outputs += [{"name": name, "datatype": "INT64", "shape": [-1]} for name in ("arm", "shown_row")]
        outputs.append({"name": "impression_id", "datatype": "UINT64", "shape": [-1]})
    return {"platform": "surefoot_pytorch", "inputs": inputs, "outputs": outputs}


def _names(request: Request) -> tuple[Surface, VersionId | None]:
    version = request.path_params.get("version")
    return Surface(request.path_params["surface"]), None if version is None else VersionId(version)


def _error(status_code: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=status_code)

    return answer


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.exception("%s failed", request.url.path, exc_info=error)
    return JSONResponse({"error": "internal error; the runtime's log says more"}, status_code=500)


ERROR_HANDLERS: dict[int | type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    InvalidField: _error(400),
    ClientDisconnect: _error(400),
    UnknownName: _error(404),
    Unavailable: _error(503),
    HTTPException: _http_error,
    Exception: _internal_error,
}
