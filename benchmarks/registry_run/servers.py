"""The two servers side by side, each as it comes, each with a SQLite file in the same folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, repeat
from pathlib import Path

import httpx

from benchmarks.registry_run.load import get, post
from control_plane.domain.model_version import VersionId
from control_plane.registry.artifacts import verify_artifact
from tests.api.deployment import VIEW_TYPES, write_artifact

ROOT = Path(__file__).parents[2]
MLFLOW_HOME = ROOT / ".bench" / "mlflow"
MLFLOW_REQUIREMENTS = Path(__file__).with_name("mlflow.txt")
START_SECONDS = 120.0
STOP_SECONDS = 10.0
SURFACE = "home_feed"


class Server(ABC):
    """A registry that holds one model with one version, which serves as stable. All calls but `requests` are prepared
    while nothing is measured."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder

    @abstractmethod
    def fill(self, client: httpx.Client) -> None: ...

    @abstractmethod
    def lookups(self) -> Iterator[bytes]: ...

    @abstractmethod
    def creations(self, count: int) -> Iterator[bytes]:
        """At most `count` new versions."""

    @abstractmethod
    def promotions(self) -> Iterator[bytes]:
        """The alias moves on to another version each time."""


class Surefoot(Server):
    """`surefoot serve`: one process, its scheduler included, SQLite with WAL and synchronous=FULL.

    A creation reads and checks the artifact's files; a promotion leaves a link in the hash chain and a row in the
    outbox.
    """

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self._versions: list[VersionId] = []
        self._written = 0

    def fill(self, client: httpx.Client) -> None:
        client.post("/v1/surfaces", json={"surface": SURFACE, "view_types": VIEW_TYPES}).raise_for_status()
        for content in self._new_artifacts(2):
            client.post("/v1/versions", json={"artifact_uri": content}).raise_for_status()
        body = {"version_id": self._versions[0], "reason": "first model"}
        client.put(f"/v1/surfaces/{SURFACE}/stable", json=body).raise_for_status()

    def lookups(self) -> Iterator[bytes]:
        return repeat(get(f"/v1/surfaces/{SURFACE}/versions/stable", port=self.port))

    def creations(self, count: int) -> Iterator[bytes]:
        folders = self._new_artifacts(count)
        return iter([post("/v1/versions", {"artifact_uri": folder}, port=self.port) for folder in folders])

    def promotions(self) -> Iterator[bytes]:
        path = f"/v1/surfaces/{SURFACE}/stable"
        bodies = [{"version_id": version, "reason": "a round of the benchmark"} for version in self._versions[:2]]
        return cycle([post(path, body, port=self.port, method="PUT") for body in bodies])

    def _new_artifacts(self, count: int) -> list[str]:
        names = [f"v{self._written + number}" for number in range(count)]
        self._written += count
        folders = [write_artifact(self.folder / "artifacts" / name, name) for name in names]
        if len(self._versions) < 2:
            self._versions += [verify_artifact(folder).version.version_id for folder in folders[:2]]
        return [str(folder) for folder in folders]


class Mlflow(Server):
    """`mlflow server`: its four worker processes, its own settings of SQLite. It looks at no file, and keeps no history
    of its aliases."""

    API = "/api/2.0/mlflow"

    def fill(self, client: httpx.Client) -> None:
        client.post(f"{self.API}/registered-models/create", json={"name": SURFACE}).raise_for_status()
        for version in ("1", "2"):
            body = {"name": SURFACE, "source": f"s3://models/{SURFACE}/{version}"}
            client.post(f"{self.API}/model-versions/create", json=body).raise_for_status()
        body = {"name": SURFACE, "alias": "stable", "version": "1"}
        client.post(f"{self.API}/registered-models/alias", json=body).raise_for_status()

    def lookups(self) -> Iterator[bytes]:
        return repeat(get(f"{self.API}/registered-models/alias?name={SURFACE}&alias=stable", port=self.port))

    def creations(self, count: int) -> Iterator[bytes]:
        body = {"name": SURFACE, "source": f"s3://models/{SURFACE}/next"}
        return repeat(post(f"{self.API}/model-versions/create", body, port=self.port), count)

    def promotions(self) -> Iterator[bytes]:
        path = f"{self.API}/registered-models/alias"
        bodies = [{"name": SURFACE, "alias": "stable", "version": version} for version in ("2", "1")]
        return cycle([post(path, body, port=self.port) for body in bodies])


@contextmanager
def surefoot(folder: Path) -> Iterator[Surefoot]:
    server = Surefoot(_free_port(), folder)
    environment = {"SUREFOOT_DATA_DIR": str(folder / "surefoot"), "SUREFOOT_PORT": str(server.port)}
    with _running([sys.executable, "-m", "control_plane", "serve"], environment, server, "/v1/health"):
        yield server


@contextmanager
def mlflow(folder: Path) -> Iterator[Mlflow]:
    server = Mlflow(_free_port(), folder)
    command = [str(MLFLOW_HOME / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(server.port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--default-artifact-root", str(folder / "mlflow-artifacts")]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _running(command, environment, server, "/health"):
        yield server


def install_mlflow() -> None:
    """Into an environment of its own, once; a minute and 900 MB."""
    wanted = MLFLOW_REQUIREMENTS.read_text()
    stamp = MLFLOW_HOME / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing MLflow into {MLFLOW_HOME} (about a minute, once) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(MLFLOW_HOME)], check=True)
    pip = [str(MLFLOW_HOME / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(MLFLOW_REQUIREMENTS)], check=True)
    stamp.write_text(wanted)


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], server: Server, health: str) -> Iterator[None]:
    log = server.folder / f"{type(server).__name__}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it has workers, which leave with it
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=START_SECONDS) as client:
            _wait_until_up(client, process, health, log)
            server.fill(client)
        yield
    finally:
        _stop(process)


def _wait_until_up(client: httpx.Client, process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if client.get(health).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not come up:\n{log.read_text()[-2_000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
