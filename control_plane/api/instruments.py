"""What one app counts of its own work, and the middleware that counts its answers."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATENCY_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # seconds


class Instruments:
    """One app's own counters: apps in one process (tests, demos) do not share them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "surefoot_http_requests", "Answered requests", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "surefoot_http_request_seconds",
            "Time until the answer began",
            ("route",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.events = Counter("surefoot_events", "Reported events", ("outcome",), registry=self.registry)
        self.webhook_attempts = Counter(
            "surefoot_webhook_attempts", "Attempts to send a webhook", ("subscriber", "outcome"), registry=self.registry
        )

    def count_webhook(self, subscriber: str, outcome: str) -> None:
        self.webhook_attempts.labels(subscriber, outcome).inc()


class Measured:
    """ASGI middleware: counts answers and the time until each began, so that streams count when they start."""

    def __init__(self, app: ASGIApp, instruments: Instruments) -> None:
        self._app = app
        self._instruments = instruments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "unmatched")
                self._instruments.requests.labels(scope["method"], route, message["status"]).inc()
                self._instruments.seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, count_and_send)
