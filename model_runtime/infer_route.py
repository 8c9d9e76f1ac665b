"""The route that carries the traffic, without a framework around it: from a request's first byte to its answer.

What is quick to read is read and written in the event loop, and waits for its scores there: no thread is changed but
for the forward, and one wake-up tells of all requests of a forward. The rest keeps one thread from its last byte to
its answer; few of those read or write at a time, since they keep each other and the network from running.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio
from anyio import to_thread
from prometheus_client import CollectorRegistry, Histogram
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from control_plane.domain.model_version import Surface, VersionId
from model_runtime.bodies import Bodies
from model_runtime.connections import one_write
from model_runtime.engine import Engine, Inference
from model_runtime.problems import told
from model_runtime.protocol import HEADER_LENGTH, Encoded, InferRequest, decode_request, encode_response
from model_runtime.steps import LoopSteps
from model_runtime.unavailable import DeadlineMissed, Unavailable

PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
QUICK_BYTES, QUICK_JSON_BYTES = 512 << 10, 16 << 10  # of a body and its JSON: read and checked within a millisecond
_HEADER_LENGTH = HEADER_LENGTH.lower().encode()


class InferRoute:
    """An ASGI application for paths that it `matches`."""

    def __init__(self, engine: Engine, bodies: Bodies, registry: CollectorRegistry) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._bodies = bodies
        self._threads = anyio.CapacityLimiter(max(1, engine.settings.max_waiting))
        self._coders = threading.BoundedSemaphore(engine.settings.workers)
        self._steps: LoopSteps | None = None
        self._taken_in = 0
        self._seconds = Histogram(
            "surefoot_runtime_request_seconds",
            "Time from a request's last byte to its answer",
            ["surface"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.last_asked_at = time.monotonic()

    @staticmethod
    def matches(scope: Scope) -> bool:
        return scope["type"] == "http" and scope["method"] == "POST" and PATH.fullmatch(scope["path"]) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.last_asked_at = time.monotonic()
        try:
            answer = await self._answer(scope, receive)
        except Exception as error:  # each has its answer
            response = await told(Request(scope), error)
            await response(scope, receive, send)
        else:
            with one_write(scope):
                await send({"type": "http.response.start", "status": 200, "headers": _headers(answer)})
                await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Encoded:
        """A request takes a place only once it is whole: slow senders must not keep the others out."""
        found = PATH.fullmatch(scope["path"])
        assert found is not None
        surface, version_id = Surface(found[1]), None if found[2] is None else VersionId(found[2])
        self._refuse_if_full()
        async with self._bodies.whole(receive, self._settings.max_body_bytes) as body:
            self._refuse_if_full()
            self._taken_in += 1
            arrived_at = time.monotonic()
            try:
                return await self._answer_whole(scope, surface, version_id, body, arrived_at)
            finally:
                self._taken_in -= 1
                name = surface if self._engine.table.split(surface) else "unknown"
                self._seconds.labels(name).observe(time.monotonic() - arrived_at)

    async def _answer_whole(
        self, scope: Scope, surface: Surface, version_id: VersionId | None, body: bytes, arrived_at: float
    ) -> Encoded:
        header_length = _header_length(scope)
        if not _is_quick(body, header_length):
            answer = partial(self._answer_in_thread, surface, version_id, body, header_length, arrived_at)
            return await to_thread.run_sync(answer, limiter=self._threads)
        if self._steps is None:
            self._steps = LoopSteps(self._engine.scorer.batches)
        started = time.perf_counter()
        request = self._read(body, header_length)
        input_seconds = time.perf_counter() - started
        steps = self._engine.inferring(surface, version_id, request, arrived_at=arrived_at)
        inference = await self._steps.take(steps, caller=scope["client"])
        started = time.perf_counter()
        encoded = _written(surface, request, inference)
        self._coded(inference, input_seconds, time.perf_counter() - started)
        return encoded

    def _answer_in_thread(
        self, surface: Surface, version_id: VersionId | None, body: bytes, header_length: str | None, arrived_at: float
    ) -> Encoded:
        with self._coding(arrived_at) as input_time:
            request = self._read(body, header_length)
        inference = self._engine.infer(surface, version_id, request, arrived_at=arrived_at)
        with self._coding(time.monotonic()) as output_time:
            encoded = _written(surface, request, inference)
        self._coded(inference, input_time.seconds, output_time.seconds)
        return encoded

    def _read(self, body: bytes, header_length: str | None) -> InferRequest:
        return decode_request(body, header_length, max_json_bytes=self._settings.max_json_bytes)

    def _coded(self, inference: Inference, input_seconds: float, output_seconds: float) -> None:
        self._engine.stats.coded(inference.version_id, input_seconds=input_seconds, output_seconds=output_seconds)

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


class _Stopwatch:
    seconds = 0.0


def _is_quick(body: bytes, header_length: str | None) -> bool:
    """Whether reading it holds up nobody; what the header claims is checked only when it is read."""
    if header_length is None or not header_length.isdecimal() or len(header_length) > len(str(QUICK_JSON_BYTES)):
        return False
    return int(header_length) <= QUICK_JSON_BYTES and len(body) <= QUICK_BYTES


def _header_length(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == _HEADER_LENGTH), None)


def _written(surface: Surface, request: InferRequest, inference: Inference) -> Encoded:
    return encode_response(
        request,
        inference.outputs,
        model_name=surface,
        model_version=inference.version_id,
        parameters=inference.parameters,
    )


def _headers(answer: Encoded) -> list[tuple[bytes, bytes]]:
    length = (b"content-length", str(len(answer.body)).encode())
    if answer.header_length is None:
        return [(b"content-type", b"application/json"), length]
    header_length = (_HEADER_LENGTH, str(answer.header_length).encode())
    return [(b"content-type", b"application/octet-stream"), length, header_length]
