"""A control plane and a runtime that really listen, and versions that really were exported."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn

from control_plane.app import create_app
from control_plane.clock import system_clock
from control_plane.settings import Settings
from model_runtime.engine import Engine
from model_runtime.server import listen, make_server
from model_runtime.settings import RuntimeSettings
from tests.model_runtime.artifacts import Artifacts, export_all

NOWHERE = "http://127.0.0.1:9"  # nobody listens on the discard port


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return export_all(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[str]:
    """The real API over an empty registry, without a scheduler; its URL."""
    with running_control_plane(tmp_path / "control") as url:
        yield url


@contextmanager
def running_control_plane(data_dir: Path, *, port: int = 0) -> Iterator[str]:
    settings = Settings(data_dir=data_dir, runs_scheduler=False)
    settings.data_dir.mkdir()
    config = uvicorn.Config(create_app(settings, system_clock), log_level="warning", timeout_graceful_shutdown=1)
    with listening(uvicorn.Server(config), port=port) as url:
        yield url


@contextmanager
def running_runtime(control_plane: str, data_dir: Path, **settings: object) -> Iterator[tuple[Engine, str]]:
    """An engine and its server in this process, on a free port."""
    engine = Engine(a_setting(control_plane, data_dir, **settings))
    engine.start()
    try:
        with listening(make_server(engine)) as url:
            yield engine, url
    finally:
        engine.stop()


def a_setting(control_plane: str, data_dir: Path, **overrides: object) -> RuntimeSettings:
    fields: dict[str, object] = {
        "control_plane": control_plane,
        "data_dir": data_dir,
        "runtime_id": "test",
        "poll_seconds": 0.1,
        "heartbeat_seconds": 0.1,
        "stop_seconds": 2.0,
    }
    return RuntimeSettings(**{**fields, **overrides})  # type: ignore[arg-type]  # tests name real settings


@contextmanager
def listening(server: uvicorn.Server, *, port: int = 0) -> Iterator[str]:
    with listen("127.0.0.1", port) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def eventually(holds: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Return as soon as it holds; threads and processes take their own time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


def set_up_home_feed(control_plane: str, artifacts: Artifacts) -> None:
    """Register every version of home_feed and adopt stable by hand."""
    with httpx.Client(base_url=control_plane) as client:
        surface = {"surface": "home_feed", "view_types": ["grid", "closeup"]}
        client.post("/v1/surfaces", json=surface).raise_for_status()
        for artifact in (artifacts.stable, artifacts.candidate, artifacts.poisoned, artifacts.twin):
            client.post("/v1/versions", json={"artifact_uri": str(artifact.folder)}).raise_for_status()
        choice = {"version_id": artifacts.stable.version_id, "reason": "first", "seen_generation": 0}
        client.put("/v1/surfaces/home_feed/stable", json=choice).raise_for_status()


def now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1_000)
