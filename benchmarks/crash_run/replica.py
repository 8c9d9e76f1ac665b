"""The processes that are killed: replicas of API and scheduler, and runtimes that follow the splits. Forked, so that
one starts in a tenth of a second; each opens its own database connections."""

import http.client
import itertools
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from benchmarks.crash_run import evidence
from benchmarks.crash_run.wrote import written_down
from control_plane import failpoints
from control_plane.app import create_app
from control_plane.clock import make_clock
from control_plane.domain.split import Split
from control_plane.scheduler import tick
from control_plane.scheduler.metronome import Metronome, make_metronome
from control_plane.settings import Settings
from control_plane.webhooks.courier import Courier, make_courier
from control_plane.webhooks.subscribers import read_subscribers
from model_runtime.split_client import SplitClient
from model_runtime.split_table import SplitTable

RUNTIME_BEATS_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """What its replicas share."""

    registry_url: str
    folder: Path
    lease_seconds: float
    tick_seconds: float
    webhooks: str = ""  # as in SUREFOOT_WEBHOOKS

    @property
    def clock_file(self) -> Path:
        return self.folder / "clock"

    def last_word(self, port: int) -> Path:
        """Where the process on that port writes the failpoint that it dies at."""
        return self.folder / f"died-{port}"

    def settings(self, port: int) -> Settings:
        return Settings(
            data_dir=self.folder,
            database_url=self.registry_url,
            clock_file=self.clock_file if self.clock_file.exists() else None,
            port=port,
            tick_seconds=self.tick_seconds,
            lease_seconds=self.lease_seconds,
            runs_scheduler=False,  # it gets one whose epoch can be asked for
            runtime_silent_seconds=1e9,
            webhooks=read_subscribers(self.webhooks),
        )


def serve(deployment: Deployment, port: int, armed: str) -> None:
    """API and scheduler in one process, as `surefoot serve` has them, until killed."""
    logging.disable(logging.CRITICAL)  # what the others' deaths are met with
    failpoints.arm(armed, on_acting=deployment.last_word(port).write_text)
    vars(tick)["MomentsReader"] = evidence.RecordedMoments  # recorded sums, see there
    settings = deployment.settings(port)
    clock = make_clock(settings.clock_file)
    app = create_app(settings, clock)
    metronome = make_metronome(settings, app.state.parts.sessions, clock)
    courier = make_courier(settings, app.state.parts.sessions)
    threading.Thread(target=_start_once_up, args=(metronome, courier, port), daemon=True).start()
    with written_down(metronome):
        uvicorn.run(app, host=settings.host, port=port, log_level="critical", access_log=False)


def follow(ports: Sequence[int], folder: Path, last_word: Path, armed: str) -> None:
    """A runtime: it holds the splits, keeps them on disk, and tells what it serves, until killed."""
    logging.disable(logging.CRITICAL)
    failpoints.arm(armed, on_acting=last_word.write_text)
    table = SplitTable(is_ready=lambda split: True)
    client = SplitClient(
        table,
        f"http://127.0.0.1:{ports[0]}",
        path=folder / "splits.json",
        on_change=table.settle,
        poll_seconds=0.2,
    )
    client.start()
    for port in itertools.cycle(ports):
        time.sleep(RUNTIME_BEATS_SECONDS)
        heartbeat(port, "runtime-1", list(table.splits().values()))


def heartbeat(port: int, runtime_id: str, splits: list[Split]) -> bool:
    """Whether it was taken."""
    versions = {v for split in splits for v in (split.stable, split.candidate, split.shadow) if v is not None}
    requests = round(time.monotonic() * 1_000)
    counts = {"requests": requests, "scores": requests, "distinct_scores": 1_000}
    body = {
        "generations": {split.surface: split.generation for split in splits},
        "loaded": sorted(versions),
        "counts": dict.fromkeys(sorted(versions), counts),
        "splits_mode": "stream",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        path = f"/v1/runtimes/{runtime_id}/heartbeat"
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().status == 204
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _start_once_up(metronome: Metronome, courier: Courier, port: int) -> None:
    """The schema is up to date once the API answers."""
    while not is_up(port):
        time.sleep(0.01)
    metronome.start()
    courier.start()


def is_up(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/v1/surfaces")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
