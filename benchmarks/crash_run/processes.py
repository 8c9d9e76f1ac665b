"""Processes forked by a server that has imported everything, so that a replica starts in a third of a second."""

import multiprocessing
import random
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess as Process
from pathlib import Path

LOWEST_PORT = 15_000
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
    """Free, and none that an outgoing connection may be given while nobody listens there: a process that comes back
    to its port finds that one busy, and ends."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(LOWEST_PORT, _first_outgoing_port()), 1_000):
        if _can_bind(port):
            found.append(port)
        if len(found) == number:
            return found
    raise OSError(f"of 1 000 ports only {len(found)} are free")


def _first_outgoing_port() -> int:
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    return int(told.read_text().split()[0]) if told.exists() else 32_768


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
