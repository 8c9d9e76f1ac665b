"""The routes of the HTTP door: Open Inference Protocol V2 with its extensions, a flush for replays, and metrics."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.domain.model_version import Surface, VersionId
from model_runtime.bodies import Bodies
from model_runtime.engine import Engine
from model_runtime.infer_route import InferRoute
from model_runtime.metrics import EngineCollector
from model_runtime.networks.features import OPTIONAL_FIELDS, FeatureSpec
from model_runtime.precision_metrics import precision_metadata
from model_runtime.problems import HANDLERS
from model_runtime.repository import read_wish
from model_runtime.scores import HEADS
from model_runtime.scoring_request import BATCH_FIELDS, USER_KEY
from model_runtime.unavailable import Unavailable

FLUSH_SECONDS = 55.0  # below the minute after which most clients give up
SLOW_CALLS = 4  # flushes and loads at once
EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics", "schedule_policy", "parameters")
MAX_WISH_BYTES = 1 << 20  # of a body that names versions


class Door:
    """The routes over one engine. What takes long is done in threads, so that health and metrics always answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bodies = Bodies(engine.settings)
        self._slow_threads = anyio.CapacityLimiter(SLOW_CALLS)
        self.is_draining = False
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine))
        self._infer = InferRoute(engine, self._bodies, self._registry)

    @property
    def quiet_seconds(self) -> float:
        """For how long nobody has asked for scores."""
        return time.monotonic() - self._infer.last_asked_at

    def app(self) -> ASGIApp:
        routes, infer = self._routes(), self._infer

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await (infer if infer.matches(scope) else routes)(scope, receive, send)

        return app

    def _routes(self) -> Starlette:
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
                *(Route(f"{path}/infer", self._infer, methods=["POST"]) for path in (model, version)),
                Route("/v1/flush", self.flush, methods=["POST"]),
                Route("/metrics", self.metrics),
            ],
            exception_handlers=HANDLERS,
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
        async with self._body(request) as body:
            asks_ready = b'"ready"' in body and b"true" in body
        index = await to_thread.run_sync(self._engine.by_hand.index, limiter=self._slow_threads)
        return JSONResponse([each for each in index if each["state"] == "READY" or not asks_ready])

    async def load(self, request: Request) -> Response:
        """Load by hand what the repository has; 200 once it is there."""
        async with self._body(request) as body:
            wish = read_wish(body)
        await to_thread.run_sync(self._engine.by_hand.load, _names(request)[0], wish, limiter=self._slow_threads)
        return Response()

    async def unload(self, request: Request) -> Response:
        async with self._body(request) as body:
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
        told = {"name": surface, "versions": loaded, **tensors, "parameters": precision_metadata(version)}
        return JSONResponse(told)

    async def model_ready(self, request: Request) -> Response:
        surface, version_id = _names(request)
        is_ready = self._serves(surface) if version_id is None else bool(self._engine.version(surface, version_id))
        return JSONResponse({"name": surface, "ready": is_ready}, status_code=200 if is_ready else 503)

    async def flush(self, _: Request) -> Response:
        if not await to_thread.run_sync(self._engine.flush, FLUSH_SECONDS, limiter=self._slow_threads):
            raise Unavailable(f"events are still waiting for the control plane after {FLUSH_SECONDS:g} s")
        return JSONResponse({"flushed": True})

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        async with self._bodies.whole(request.receive, MAX_WISH_BYTES) as body:
            yield body

    def _is_ready(self) -> bool:
        table = self._engine.table
        serving = table.splits()
        is_served = bool(serving) and all(self._serves(surface) for surface in (*serving, *table.ordered()))
        return is_served and not self.is_draining and not self._engine.scorer.batches.is_hung()

    def _serves(self, surface: Surface) -> bool:
        return self._engine.residency.get(self._engine.split(surface).stable) is not None


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
