"""Processes forked by a server that has imported everything, so that a replica starts in a third of a second."""

import multiprocessing
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess as Process

IMPORTED_LATE = (  # by name, when a server starts or is first asked
    *("anyio._backends._asyncio", "apscheduler.triggers.interval", "encodings.idna", "fastapi.telemetry._runtime"),
    *("uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"),
    *("uvicorn.loops.asyncio", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"),
)
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["benchmarks.crash_run.replica", *IMPORTED_LATE])

__all__ = ["Process", "free_ports", "started", "warm_up"]


def started(target: Callable[..., None], *arguments: object) -> Process:
    process = FORK_SERVER.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def warm_up() -> None:
    """Wait until the server has imported everything."""
    started(time.sleep, 0.0).join()


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
