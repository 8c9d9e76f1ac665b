"""Every server of the comparison: how it is started, how a page of candidates is asked of it, how its scores are read.

Peers stand here twice. *Documented*: flat rows as JSON numbers; a row
brings its user's features with it, and the network reads each row alone. *Broadcast*: the whole request in the
quickest form that the peer's documents offer, scored by this project's forward, which reads a user once.

Two worker processes each, one for each of two cores; `python -m benchmarks.serving --tune` tries other settings.
"""

import base64
import json
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.serving_run.environments import ROOT, python_of
from benchmarks.serving_run.model import SURFACE, Exported, Page
from benchmarks.serving_run.processes import Processes, running
from benchmarks.serving_run.wire import NAMES, TASKS, flat_rows, pack, unpack_scores
from model_runtime.networks.features import FloatArray
from model_runtime.protocol import DATATYPE_OF, HEADER_LENGTH

START_SECONDS = 120.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
MODEL = "engagement"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What a peer's documents leave to its user: processes, and how many requests to join and how long to wait."""

    workers: int
    max_batch_size: int = 1
    batch_seconds: float = 0.0


class Server(ABC):
    """One server and one way of using it."""

    name: str
    ready_path = "/"

    def __init__(self, port: int, folder: Path, artifact: Exported) -> None:
        self.port = port
        self.folder = folder
        self.artifact = artifact

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def request(self, page: Page) -> bytes: ...

    @abstractmethod
    def scores(self, answer: httpx.Response) -> FloatArray:
        """Shape (T, N)."""

    def environment(self) -> Mapping[str, str]:
        return {}

    def is_up(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{self.ready_path}", timeout=5.0).is_success
        except httpx.TransportError:
            return False


class Surefoot(Server):
    """`python -m model_runtime serve` as it comes: routed requests, tensors as bytes behind the JSON, both ways.

    `is_shown` asks it to pick each user's candidate and to log it, which is what a shadow scores.
    """

    name = "surefoot"
    ready_path = "/v2/health/ready"

    def __init__(self, port: int, folder: Path, artifact: Exported, *, feed_url: str, is_shown: bool = False) -> None:
        super().__init__(port, folder, artifact)
        self.is_shown = is_shown
        self._feed_url = feed_url

    def command(self) -> list[str]:
        settings = [
            "--control-plane",
            self._feed_url,
            "--port",
            str(self.port),
            "--data-dir",
            str(self.folder / "data"),
        ]
        return [sys.executable, "-m", "model_runtime", "serve", *settings]

    def request(self, page: Page) -> bytes:
        arrays = {name: getattr(page.batch, name) for name in NAMES}
        arrays = {name: each for name, each in arrays.items() if each.size} | {"user_key": page.user_key_U}
        blobs = [each.tobytes() for each in arrays.values()]
        inputs = [
            {**_tensor(name, each), "parameters": {"binary_data_size": len(blob)}}
            for (name, each), blob in zip(arrays.items(), blobs, strict=True)
        ]
        outputs = [{"name": task, "parameters": {"binary_data": True}} for task in TASKS]
        head = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": {"show": int(self.is_shown)}}).encode()
        headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        return _post(f"/v2/models/{SURFACE}/infer", b"".join([head, *blobs]), headers)

    def scores(self, answer: httpx.Response) -> FloatArray:
        length = int(answer.headers[HEADER_LENGTH])
        names = [output["name"] for output in json.loads(answer.content[:length])["outputs"]]
        assert tuple(names) == TASKS
        return np.frombuffer(answer.content[length:], np.float32).reshape(len(TASKS), -1)


class Peer(Server):
    environment_name: str  # of its virtual environment and its pins
    tuning: Tuning

    @property
    def is_broadcast(self) -> bool:
        return self.name.endswith("broadcast")

    def with_tuning(self, tuning: Tuning) -> "Peer":
        self.tuning = tuning
        return self

    def environment(self) -> Mapping[str, str]:
        return {**ONE_THREAD, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def _script(self) -> list[str]:
        """Of a peer that is started by a script of its user's."""
        module = f"benchmarks.serving_run.peers.{self.environment_name}_peer"
        command = [str(python_of(self.environment_name)), "-m", module, "--port", str(self.port)]
        command += ["--artifact", str(self.artifact.folder), "--workers", str(self.tuning.workers)]
        command += ["--max-batch-size", str(self.tuning.max_batch_size)]
        command += ["--batch-seconds", str(self.tuning.batch_seconds)]
        return [*command, "--is-broadcast"] if self.is_broadcast else command


class MlServer(Peer):
    environment_name = "mlserver"
    ready_path = f"/v2/models/{MODEL}/ready"

    def command(self) -> list[str]:
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": self.tuning.workers,
            "gzip_enabled": False,
        }
        model = {
            "name": MODEL,
            "implementation": f"benchmarks.serving_run.peers.mlserver_peer.{type(self).runtime}",
            "parameters": {"uri": str(self.artifact.folder)},
            "max_batch_size": self.tuning.max_batch_size,
            "max_batch_time": self.tuning.batch_seconds,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "model-settings.json").write_text(json.dumps(model))
        return [str(python_of("mlserver").with_name("mlserver")), "start", str(self.folder)]

    runtime: str


class MlServerDocumented(MlServer):
    name, runtime = "mlserver documented", "Rows"
    tuning = Tuning(workers=2)

    def request(self, page: Page) -> bytes:
        rows = flat_rows(page.batch)
        inputs = [
            {**_tensor(name, each), "parameters": {"content_type": "np"}, "data": each.ravel().tolist()}
            for name, each in rows.items()
        ]
        return _post_json(f"/v2/models/{MODEL}/infer", {"inputs": inputs})

    def scores(self, answer: httpx.Response) -> FloatArray:
        output = answer.json()["outputs"][0]
        return np.array(output["data"], np.float32).reshape(output["shape"]).T


class MlServerBroadcast(MlServer):
    name, runtime = "mlserver broadcast", "Broadcast"
    tuning = Tuning(workers=2)

    def request(self, page: Page) -> bytes:
        content = base64.b64encode(pack(page.batch)).decode()
        packed = {"name": "batch", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
        return _post_json(f"/v2/models/{MODEL}/infer", {"inputs": [{**packed, "data": [content]}]})

    def scores(self, answer: httpx.Response) -> FloatArray:
        return unpack_scores(base64.b64decode(answer.json()["outputs"][0]["data"][0]))


class LitServe(Peer):
    environment_name = "litserve"
    ready_path = "/health"

    def command(self) -> list[str]:
        return self._script()


class LitServeDocumented(LitServe):
    name = "litserve documented"
    tuning = Tuning(workers=2)

    def request(self, page: Page) -> bytes:
        return _post_json("/predict", {name: each.tolist() for name, each in flat_rows(page.batch).items()})

    def scores(self, answer: httpx.Response) -> FloatArray:
        return np.array(answer.json()["scores"], np.float32)


class LitServeBroadcast(LitServe):
    name = "litserve broadcast"
    tuning = Tuning(workers=2)

    def request(self, page: Page) -> bytes:
        return _post_json("/predict", {"batch": base64.b64encode(pack(page.batch)).decode()})

    def scores(self, answer: httpx.Response) -> FloatArray:
        return unpack_scores(base64.b64decode(answer.json()["scores"]))


class RayServe(Peer):
    environment_name = "ray"
    ready_path = "/-/healthz"

    def command(self) -> list[str]:
        return self._script()

    def environment(self) -> Mapping[str, str]:
        high_throughput = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
        return {**super().environment(), **high_throughput, "RAY_USAGE_STATS_ENABLED": "0"}

    def is_up(self) -> bool:
        """Its proxy is well before any deployment is there."""
        try:
            return httpx.post(f"http://127.0.0.1:{self.port}/", content=b"{}", timeout=5.0).status_code == 500
        except httpx.TransportError:
            return False


class RayDocumented(RayServe):
    name = "ray documented"
    tuning = Tuning(workers=2)

    def request(self, page: Page) -> bytes:
        return _post_json("/", {name: each.tolist() for name, each in flat_rows(page.batch).items()})

    def scores(self, answer: httpx.Response) -> FloatArray:
        return np.array(answer.json()["scores"], np.float32)


class RayBroadcast(RayServe):
    name = "ray broadcast"
    tuning = Tuning(workers=2)

    def request(self, page: Page) -> bytes:
        return _post("/", pack(page.batch), {"Content-Type": "application/octet-stream"})

    def scores(self, answer: httpx.Response) -> FloatArray:
        return unpack_scores(answer.content)


PEERS: tuple[type[Peer], ...] = (
    MlServerDocumented,
    MlServerBroadcast,
    LitServeDocumented,
    LitServeBroadcast,
    RayDocumented,
    RayBroadcast,
)


@contextmanager
def started(server: Server) -> Iterator[Processes]:
    server.folder.mkdir(parents=True, exist_ok=True)
    with running(
        server.command(),
        environment=server.environment(),
        cwd=server.folder if isinstance(server, Peer) else ROOT,
        log=server.folder / "log",
        is_up=server.is_up,
        seconds=START_SECONDS,
    ) as processes:
        yield processes


def check(server: Server, page: Page, expected: Mapping[str, FloatArray]) -> None:
    """Every server must give the scores that the model gives; otherwise it did other work.

    Raises:
        RuntimeError: it answered something else.
    """
    request = server.request(page)
    head, _, body = request.partition(b"\r\n\r\n")
    path, lines = head.split()[1].decode(), head.decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines)
    answer = httpx.post(f"http://127.0.0.1:{server.port}{path}", content=body, headers=headers, timeout=60.0)
    if not answer.is_success:
        raise RuntimeError(f"{server.name} answered {answer.status_code}: {answer.text[:500]}")
    score_TN = server.scores(answer)
    worst = max(float(np.abs(score_TN[place] - expected[task]).max()) for place, task in enumerate(TASKS))
    if not worst <= 1e-5:
        raise RuntimeError(f"{server.name} is off by {worst:g}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tensor(name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> dict[str, object]:
    return {"name": name, "shape": list(array.shape), "datatype": DATATYPE_OF[array.dtype]}


def _post_json(path: str, value: object) -> bytes:
    return _post(path, json.dumps(value, separators=(",", ":")).encode(), {"Content-Type": "application/json"})


def _post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
