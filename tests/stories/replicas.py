"""Control planes in processes of their own on one registry: started, killed, started again, each on a port it keeps."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.model_runtime.conftest import free_port

PATIENCE_SECONDS = 90.0  # for a process to come up on a busy machine


@dataclass(kw_only=True)
class Replica:
    """`surefoot serve` without a scheduler."""

    root: Path
    database_url: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, environment: Mapping[str, str] = {}) -> None:
        told = {
            "SUREFOOT_DATA_DIR": str(self.root),
            "SUREFOOT_DATABASE_URL": self.database_url,
            "SUREFOOT_PORT": str(self.port),
            "SUREFOOT_RUNS_SCHEDULER": "false",
            **environment,
        }
        with (self.root / f"replica-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "control_plane", "serve"],
                env={**os.environ, **told},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_up()

    def kill(self) -> None:
        """kill -9, if it still lives."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)

    def _wait_until_up(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/v1/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"nothing answers at {self.url}")


@contextmanager
def replicas(count: int, root: Path, database_url: str) -> Iterator[list[Replica]]:
    made = [Replica(root=root, database_url=database_url) for _ in range(count)]
    with ExitStack() as running:
        for replica in made:
            replica.start()
            running.callback(replica.kill)
        yield made
