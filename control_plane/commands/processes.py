"""`surefoot up|serve|scheduler|aggregate|runtime|train|export|demo`: the processes."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
import typer
import uvicorn

from control_plane.app import create_app
from control_plane.clock import make_clock
from control_plane.commands.client import TIMEOUT_SECONDS, err, fail, out
from control_plane.commands.environment import read_settings, told_plainly
from control_plane.demo import run as demo_run
from control_plane.evidence.event_log import EventLog
from control_plane.registry.session import Sessions, make_engine, upgrade
from control_plane.scheduler.aggregator import aggregate_once
from control_plane.scheduler.metronome import make_metronome
from control_plane.settings import Settings
from control_plane.webhooks.courier import make_courier

STOP_SECONDS = 10.0
CHILD_SECONDS = 0.5  # between looks whether the processes of `up` live
READY_SECONDS = 0.2  # between looks whether one answers yet
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def serve() -> None:
    """Serve API and admin page; carries a scheduler unless SUREFOOT_RUNS_SCHEDULER=false."""
    settings = read_settings()
    _refuse_taken_port(settings.host, settings.port, "SUREFOOT_PORT")
    with told_plainly():
        _sessions(settings).engine.dispose()  # a registry out of reach is told now; the app opens its own
        app = create_app(settings, make_clock(settings.clock_file))
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=3)


def scheduler() -> None:
    """Run a scheduler alone; of several, the one that holds the lease acts."""
    settings = read_settings()
    with told_plainly():
        sessions = _sessions(settings)
        metronome = make_metronome(settings, sessions, make_clock(settings.clock_file))
        courier = make_courier(settings, sessions)
    metronome.start()
    courier.start()
    out.print(f"scheduler {metronome.holder} ticks every {settings.tick_seconds:g} s", highlight=False)
    _wait_for_signal()
    courier.stop()
    metronome.stop()


def aggregate(
    every_seconds: Annotated[float, typer.Option("--every", min=1, help="Seconds between passes.")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="One pass, then exit.")] = False,
) -> None:
    """Keep the sums of closed partitions computed, so that schedulers find them ready."""
    settings = read_settings()
    with told_plainly():
        sessions, log = _sessions(settings), EventLog(settings.log_dir)
    clock = make_clock(settings.clock_file)
    stopped = _stop_event()
    while True:
        count = aggregate_once(sessions, log, now=clock())
        out.print(f"moments of {count} rollouts are up to date", highlight=False)
        if once or stopped.wait(every_seconds):
            return


def up() -> None:
    """Start API, admin page, scheduler and one scoring runtime on this machine; says so once they answer."""
    settings = read_settings()
    _refuse_taken_port(settings.host, settings.port, "SUREFOOT_PORT")
    _refuse_taken_port(settings.runtime_host, settings.runtime_port, "SUREFOOT_RUNTIME_PORT")
    quiet = ("--log-level", os.environ.get("SUREFOOT_LOG_LEVEL", "warning"))
    page, scores = _address(settings.host, settings.port), _address(settings.runtime_host, settings.runtime_port)
    stopped = _stop_event()
    if err.is_terminal:
        err.print("starting …")
    children = [_start("control_plane", "serve")]
    try:
        if not _answers(f"{page}/v1/health", children, stopped):
            return
        children.append(_start("model_runtime", "serve", *_runtime_arguments(settings), *quiet))
        if not _answers(f"{scores}/v2/health/live", children, stopped):
            return
        out.print(f"admin page: {page}/   runtime: {scores}   stop with Ctrl-C", highlight=False, soft_wrap=True)
        while not stopped.wait(CHILD_SECONDS):
            _check_alive(children)
    finally:
        _stop(children)


def runtime(context: typer.Context) -> None:
    """Serve scores (python -m model_runtime serve); takes its options."""
    _become_runtime("serve", [*_runtime_arguments(read_settings()), *context.args])


def train(context: typer.Context) -> None:
    """Train a unified checkpoint (python -m model_runtime train); takes its options."""
    _become_runtime("train", context.args)


def recalibrate(context: typer.Context) -> None:
    """Fit a checkpoint's calibrators anew, its weights untouched (python -m model_runtime recalibrate)."""
    _become_runtime("recalibrate", context.args)


def export(context: typer.Context) -> None:
    """Export a checkpoint per surface (python -m model_runtime export); takes its options."""
    _become_runtime("export", context.args)


def demo(
    exits: Annotated[bool, typer.Option("--exit", help="End by itself; exit 0 only if all went as expected.")] = False,
    data_dir: Annotated[Path, typer.Option(help="Where the demo keeps its things.")] = Path(".demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 7,
) -> None:
    """Walk the whole path on real logged ad impressions."""
    raise typer.Exit(demo_run.main(exits=exits, data_dir=data_dir, seed=seed))


def _sessions(settings: Settings) -> Sessions:
    """The registry, its schema up to date."""
    engine = make_engine(settings.registry_url)
    upgrade(engine)
    return Sessions(engine)


def _runtime_arguments(settings: Settings) -> list[str]:
    return [
        *("--control-plane", _address(settings.host, settings.port)),
        *("--host", settings.runtime_host),
        *("--port", str(settings.runtime_port)),
        *("--data-dir", str(settings.data_dir / "runtime")),
    ]


def _become_runtime(command: str, arguments: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "model_runtime", command, *arguments])


def _refuse_taken_port(host: str, port: int, setting: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            held = "; something runs there already: an `up` that was killed leaves its processes behind"
            why = f"{error.strerror}{held if error.errno == errno.EADDRINUSE else ''}"
            fail(f"cannot listen on {host}:{port}: {why}; {setting} chooses another port", code=2)


def _stop_event() -> threading.Event:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def _wait_for_signal() -> None:
    _stop_event().wait()


def _start(package: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", package, *arguments])


def _answers(address: str, children: list[subprocess.Popen[bytes]], stopped: threading.Event) -> bool:
    """Wait until `address` does; False if the wait was ended by a signal."""
    while not stopped.is_set():
        _check_alive(children)
        with suppress(httpx.TransportError):
            if httpx.get(address, timeout=TIMEOUT_SECONDS, trust_env=False).is_success:
                return True
        stopped.wait(READY_SECONDS)
    return False


def _check_alive(children: list[subprocess.Popen[bytes]]) -> None:
    if any(child.poll() is not None for child in children):
        fail("a process ended by itself; what it said last stands above. Stopping all of them")


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            err.print(f"process {child.pid} did not stop in time; killing it")
            child.kill()
