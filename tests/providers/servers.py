"""Servers on loopback: a real Prometheus with numbers in it, and ones that behave as no Prometheus should."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

START_SECONDS = 20.0

Behaviour = Callable[[socket.socket, bytes], None]  # what to do on a connection, once the request's head was read


@contextmanager
def prometheus(folder: Path, openmetrics: str) -> Iterator[str]:
    """URL of a Prometheus that holds these samples; the test is skipped where the program is missing."""
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        pytest.skip("prometheus is missing: apt-get install prometheus")
    (folder / "samples.txt").write_text(openmetrics)
    (folder / "prometheus.yml").write_text("")
    import_command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples.txt", "data"]
    subprocess.run(import_command, cwd=folder, check=True, capture_output=True, timeout=60)
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/-/ready", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """URL of a server that meets every connection, each in a thread, with this behaviour."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stopped = threading.Event()
        threads = [threading.Thread(target=_accept, args=(listener, behaviour, stopped))]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            threads[0].join()


def answers(body: str | bytes, status: str = "200 OK", *headers: str) -> Behaviour:
    content = body if isinstance(body, bytes) else body.encode()
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers, "", ""])
    return lambda connection, request: connection.sendall(head.encode() + content)


def answers_vector(*values: str) -> Behaviour:
    result = [{"metric": {"n": str(index)}, "value": [1, value]} for index, value in enumerate(values)]
    return answers(json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}))


def never_answers(connection: socket.socket, request: bytes) -> None:
    connection.settimeout(30)
    connection.recv(1)  # until the client is gone


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _accept(listener: socket.socket, behaviour: Behaviour, stopped: threading.Event) -> None:
    threads: list[threading.Thread] = []
    while not stopped.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        threads.append(threading.Thread(target=_meet, args=(connection, behaviour)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def _meet(connection: socket.socket, behaviour: Behaviour) -> None:
    connection.setblocking(True)
    request = b""
    with connection:
        try:
            while b"\r\n\r\n" not in request and (received := connection.recv(65_536)):
                request += received
            behaviour(connection, request)
        except OSError:
            return  # the client has gone, as some tests want it to


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "prometheus ended while it started"
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("prometheus did not start")
