"""`python -m model_runtime` as a process of its own."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.model_runtime.conftest import NOWHERE, eventually, free_port


def arguments(*rest: str) -> list[str]:
    return [sys.executable, "-m", "model_runtime", *rest]


def is_live(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/live").status_code == 200
    except httpx.TransportError:
        return False


def test_a_signal_ends_it_in_good_order(tmp_path: Path) -> None:
    port = free_port()
    command = arguments("serve", "--control-plane", NOWHERE, "--port", str(port), "--data-dir", str(tmp_path))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: is_live(port), seconds=60.0)
        finally:
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        ended = subprocess.run(
            arguments("serve", "--port", str(port), "--data-dir", str(tmp_path)), capture_output=True, text=True
        )

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"cannot listen on 127.0.0.1:{port}: Address already in use; --port chooses another"
    ]


def test_an_option_that_makes_no_sense_is_told() -> None:
    ended = subprocess.run(arguments("serve", "--control-plane", "nonsense"), capture_output=True, text=True)

    assert ended.returncode == 2
    assert "--control-plane" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("given", "code"), [((), 2), (("dance",), 2), (("--help",), 0)])
def test_without_a_known_command_usage_is_shown(given: tuple[str, ...], code: int) -> None:
    ended = subprocess.run(arguments(*given), capture_output=True, text=True)

    assert ended.returncode == code
    assert "serve|open-bandit|generate|train|add-surface|recalibrate|export" in ended.stdout + ended.stderr


def test_serving_loads_nothing_of_training_or_of_the_control_plane() -> None:
    code = "import sys, model_runtime.server; print('\\n'.join(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    foreign = ("model_runtime.training", "control_plane.registry", "duckdb", "sqlalchemy", "fastapi", "pydantic")
    assert [name for name in loaded if name.startswith(foreign)] == []


def test_the_engine_needs_no_web_framework() -> None:
    code = "import sys, model_runtime.engine; print('\\n'.join(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    foreign = ("starlette", "uvicorn", "anyio", "prometheus_client", "httpx", "fastapi", "pydantic")
    assert [name for name in loaded if name.startswith(foreign)] == []


def test_a_data_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()

    ended = subprocess.run(
        arguments("serve", "--port", "0", "--data-dir", str(tmp_path / "a-file")), capture_output=True, text=True
    )

    assert (ended.returncode, ended.stderr) == (2, f"--data-dir {tmp_path / 'a-file'}: File exists\n")


def test_a_device_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    ended = subprocess.run(
        arguments("serve", "--port", "0", "--data-dir", str(tmp_path), "--device", "cuda:99"),
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("--device cuda:99: this machine has ")
