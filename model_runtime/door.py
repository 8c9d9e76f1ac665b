"""The routes of the HTTP door: Open Inference Protocol V2 with its extensions, a flush for replays, and metrics."""

import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
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
from model_runtime.repository import LoadFailed, NotUnloaded, read_wish
from model_runtime.scores import HEADS
from model_runtime.scoring_request import BATCH_FIELDS, USER_KEY
from model_runtime.unavailable import DeadlineMissed, Unavailable

FLUSH_SECONDS = 55.0  # below the minute after which most clients give up
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW_CALLS = 4  # flushes and loads at once
EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics", "schedule_policy", "parameters")
MAX_WISH_BYTES = 1 << 20  # of a body that names versions

log = logging.getLogger(__name__)


class Door:
    """The routes over one engine. All work is done in threads, so that health and metrics always answer.

    A request keeps one thread from its last byte to its answer. Few of them read or write at a time, since they keep
    each other and the network from running; the others wait for their scores.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._threads = anyio.CapacityLimiter(max(1, engine.settings.max_waiting))
        self._coders = threading.BoundedSemaphore(engine.settings.workers)
        self._slow_threads = anyio.CapacityLimiter(SLOW_CALLS)
        self.is_draining = False
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
        hand = "/v2/repository/models/{surface}"
        return Starlette(
            routes=[
                Route("/v2/health/live", self.live),
                Route("/v2/health/ready", self.ready),
                Route("/v2", self.server_metadata),
                Route("/v2/models/stats", self.statistics),
                Route("/v2/repository/index", self.repository_index, methods=["POST"]),
                Route(f"{hand}/load", self.load, methods=["POST"]),
                Route(f"{hand}/unload", self.unload, methods=["POST"]),
                *(Route(f"{path}/stats", self.statistics) for path in (model, version)),
                *(Route(path, self.model_metadata) for path in (model, version)),
                *(Route(f"{path}/ready", self.model_ready) for path in (model, version)),
                *(Route(f"{path}/infer", self.infer, methods=["POST"]) for path in (model, version)),
                Route("/v1/flush", self.flush, methods=["POST"]),
                Route("/metrics", self.metrics),
            ],
            exception_handlers=ERROR_HANDLERS,
        )

    async def live(self, _: Request) -> Response:
        """Alive as long as no forward hangs: of one that does, only a restart frees the device."""
        is_live = not self._engine.scorer.batches.is_hung()
        return JSONResponse({"live": is_live}, status_code=200 if is_live else 503)

    async def ready(self, _: Request) -> Response:
        """Ready once every surface with a split can be answered, until this runtime is told to end."""
        is_ready = self._is_ready()
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def server_metadata(self, _: Request) -> Response:
        return JSONResponse({"name": "surefoot", "version": "0.1.0", "extensions": list(EXTENSIONS)})

    async def repository_index(self, request: Request) -> Response:
        """Every version in memory or in the repository; of those that are not ready, why."""
        async with self._body(request, MAX_WISH_BYTES) as body:
            asks_ready = b'"ready"' in body and b"true" in body
        index = await to_thread.run_sync(self._engine.by_hand.index, limiter=self._slow_threads)
        return JSONResponse([each for each in index if each["state"] == "READY" or not asks_ready])

    async def load(self, request: Request) -> Response:
        """Load by hand what the repository has; 200 once it is there."""
        async with self._body(request, MAX_WISH_BYTES) as body:
            wish = read_wish(body)
        await to_thread.run_sync(self._engine.by_hand.load, _names(request)[0], wish, limiter=self._slow_threads)
        return Response()

    async def unload(self, request: Request) -> Response:
        async with self._body(request, MAX_WISH_BYTES) as body:
            wish = read_wish(body)
        await to_thread.run_sync(self._engine.by_hand.unload, _names(request)[0], wish, limiter=self._slow_threads)
        return Response()

    async def statistics(self, request: Request) -> Response:
        surface, version_id = _names(request) if "surface" in request.path_params else (None, None)
        return JSONResponse({"model_stats": self._engine.statistics(surface, version_id)})

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
        async with self._body(request, self._settings.max_body_bytes) as body:
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
                    self._answer, surface, version_id, body, header_length, time.monotonic(), limiter=self._threads
                )
        finally:
            self._taken_in -= 1

    async def flush(self, _: Request) -> Response:
        if not await to_thread.run_sync(self._engine.flush, FLUSH_SECONDS, limiter=self._slow_threads):
            raise Unavailable(f"events are still waiting for the control plane after {FLUSH_SECONDS:g} s")
        return JSONResponse({"flushed": True})

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def _answer(
        self, surface: Surface, version_id: VersionId | None, body: bytes, header_length: str | None, arrived_at: float
    ) -> Encoded:
        with self._coding(arrived_at) as input_time:
            request = decode_request(body, header_length, max_json_bytes=self._settings.max_json_bytes)
        inference = self._engine.infer(surface, version_id, request, arrived_at=arrived_at)
        with self._coding(time.monotonic()) as output_time:
            answer = encode_response(
                request,
                inference.outputs,
                model_name=surface,
                model_version=inference.version_id,
                parameters=inference.parameters,
            )
        self._engine.stats.coded(
            inference.version_id, input_seconds=input_time.seconds, output_seconds=output_time.seconds
        )
        return answer

    @contextmanager
    def _coding(self, since: float) -> Iterator["_Stopwatch"]:
        """One of the few turns to read or write, and how long it took; whoever gets none in time is told."""
        if not self._coders.acquire(timeout=self._settings.max_seconds):
            raise DeadlineMissed(time.monotonic() - since)
        stopwatch, started = _Stopwatch(), time.perf_counter()
        try:
            yield stopwatch
        finally:
            self._coders.release()
            stopwatch.seconds = time.perf_counter() - started

    def _refuse_if_full(self) -> None:
        if self._taken_in >= self._settings.max_waiting:
            raise Unavailable(f"{self._taken_in} requests are waiting; try another replica, or later")

    @asynccontextmanager
    async def _body(self, request: Request, max_bytes: int) -> AsyncIterator[bytes]:
        """The whole body, which counts as held until it is answered."""
        chunks: list[bytes] = []
        try:
            await self._receive(request, chunks, max_bytes)
            yield b"".join(chunks)
        finally:
            self._held_bytes -= sum(map(len, chunks))

    async def _receive(self, request: Request, chunks: list[bytes], max_bytes: int) -> None:
        settings, size = self._settings, 0
        try:
            with anyio.fail_after(settings.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._held_bytes += len(chunk)
                    if size > max_bytes:
                        raise HTTPException(413, f"body: may have at most {max_bytes} bytes")
                    if self._held_bytes > settings.max_held_bytes:
                        raise Unavailable("the requests at hand fill the memory; try another replica, or later")
        except TimeoutError:
            raise HTTPException(408, f"body: must come within {settings.body_seconds:g} s") from None

    def _is_ready(self) -> bool:
        table = self._engine.table
        serving = table.splits()
        is_served = bool(serving) and all(self._serves(surface) for surface in (*serving, *table.ordered()))
        return is_served and not self.is_draining and not self._engine.scorer.batches.is_hung()

    def _serves(self, surface: Surface) -> bool:
        return self._engine.residency.get(self._engine.split(surface).stable) is not None


class _Stopwatch:
    seconds = 0.0


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


async def _unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)
    headers = {"Retry-After": str(error.retry_after_seconds)}
    return JSONResponse({"error": str(error)}, status_code=503, headers=headers)


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
    LoadFailed: _error(400),
    NotUnloaded: _error(409),
    Unavailable: _unavailable,
    HTTPException: _http_error,
    Exception: _internal_error,
}
