"""Bad bytes over real sockets, beside a caller whose requests are sound and must stay unharmed."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import httpx
import numpy as np
import pytest

from model_runtime.checkpoints import load_version
from model_runtime.engine import Engine
from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.model_runtime.conftest import eventually, running_control_plane, running_runtime, set_up_home_feed
from tests.model_runtime.test_server import INFER, as_binary, outputs_of, tensors_of

MAX_JSON = 100_000
POLITE = {200, 400, 404, 408, 409, 411, 413, 422, 503}  # a status of 500 is a bug, whatever came in
LOAD, INDEX = "/v2/repository/models/home_feed/load", "/v2/repository/index"


@pytest.fixture(scope="module")
def runtime(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    tmp_path = tmp_path_factory.mktemp("bad")
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        limits = {"max_rows": 1_000, "max_json_bytes": MAX_JSON, "body_seconds": 1.0, "repository": tmp_path}
        with running_runtime(control_plane, tmp_path / "runtime", **limits) as (engine, url):
            eventually(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200)
            yield engine, url


@contextmanager
def a_sound_caller(artifacts: Artifacts, url: str) -> Iterator[None]:
    """Asks without a pause for as long as this lasts; each of its answers must be right."""
    batch, stop, problems, answered = sound_batch(), threading.Event(), list[str](), list[int]()
    expected_N = load_version(artifacts.stable.folder).score(batch)["click"]
    body, headers = as_binary(tensors_of(batch), parameters={"binary_data_output": True})

    def ask() -> None:
        with httpx.Client(base_url=url) as http:
            while not stop.is_set():
                answer = http.post(INFER, content=body, headers=headers)
                is_right = answer.status_code == 200 and np.allclose(
                    outputs_of(answer)["click"], expected_N, atol=1e-6, rtol=0
                )
                answered.append(1)
                if not is_right:
                    problems.append(answer.text[:200])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        eventually(lambda: answered)
        yield
    finally:
        before = len(answered)
        eventually(lambda: len(answered) > before or not thread.is_alive())
        stop.set()
        thread.join(30.0)
    assert problems == []
    assert len(answered) > before


def swapped(body: bytes, random: Random) -> bytes:
    changed = bytearray(body)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def cut(body: bytes, random: Random) -> bytes:
    return body[: random.randrange(len(body))]


def longer(body: bytes, random: Random) -> bytes:
    return body + random.randbytes(random.randint(1, 500))


def lying(body: bytes, random: Random) -> bytes:
    """Other numbers in the JSON head: shapes, sizes and offsets that are not what comes."""
    end = body.rindex(b"}") + 1
    digits = [index for index, byte in enumerate(body[:end]) if chr(byte).isdigit()]
    changed = bytearray(body)
    for index in random.sample(digits, min(3, len(digits))):
        changed[index] = random.choice(b"0123456789-.e")
    return bytes(changed)


@pytest.mark.parametrize("mutate", [swapped, cut, longer, lying])
def test_requests_changed_at_random_are_refused_politely_and_harm_no_other(
    runtime: tuple[Engine, str], artifacts: Artifacts, mutate: Callable[[bytes, Random], bytes]
) -> None:
    _, url = runtime
    body, headers = as_binary(tensors_of(sound_batch(num_users=4, num_rows=12)), parameters={"timeout": 2_000_000})
    random = Random(mutate.__name__)

    with a_sound_caller(artifacts, url), httpx.Client(base_url=url) as http:
        for _ in range(60):
            answer = http.post(INFER, content=mutate(body, random), headers=headers)

            assert answer.status_code in POLITE, answer.text
            assert answer.status_code == 200 or answer.json()["error"]


@pytest.mark.parametrize("path", [LOAD, LOAD.replace("load", "unload"), INDEX])
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"7", b"\xff", b"[" * 10_000, b'{"parameters": 7}', b'{"parameters": {"config": 7}}'),
        *(b'{"parameters": {"config": "{"}}', b'{"parameters": {"config": "[]"}}'),
        *(
            b'{"parameters": {"version": 7}}',
            b'{"parameters": {"versions": [7]}}',
            b'{"parameters": {"version": "../x"}}',
        ),
        *(b'{"parameters": {"shadow_sample_bp": true}}', b'{"parameters": {"shadow_sample_bp": -1}}'),
    ],
)
def test_a_repository_call_that_is_none_is_refused_politely(
    runtime: tuple[Engine, str], path: str, body: bytes
) -> None:
    answer = httpx.post(runtime[1] + path, content=body)

    assert answer.status_code in POLITE, answer.text
    assert path == INDEX or answer.status_code >= 400 or body == b""


@pytest.mark.parametrize("timeout", [-1, True, "soon", 1.5, None, 2**70])
def test_a_timeout_that_is_none_is_named(runtime: tuple[Engine, str], timeout: object) -> None:
    body, headers = as_binary(tensors_of(sound_batch(num_users=4, num_rows=12)), parameters={"timeout": timeout})

    answer = httpx.post(runtime[1] + INFER, content=body, headers=headers)

    if timeout == 2**70:
        assert answer.status_code == 200  # longer than anyone waits
    else:
        assert (answer.status_code, "parameters.timeout" in answer.json()["error"]) == (400, True)


def test_json_too_large_to_be_parsed_beside_others_is_refused(runtime: tuple[Engine, str]) -> None:
    answer = httpx.post(runtime[1] + INFER, content=json.dumps({"inputs": [], "id": "x" * MAX_JSON}))

    assert answer.status_code == 400
    assert "binary" in answer.json()["error"]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Length: 20\r\n\r\n".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nshort".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{'X-A: ' + 'y' * 200_000}\r\n\r\n".encode(),
    ],
)
def test_what_is_no_http_ends_its_own_connection_alone(
    runtime: tuple[Engine, str], artifacts: Artifacts, sent: bytes
) -> None:
    _, url = runtime
    with a_sound_caller(artifacts, url):
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        with socket.create_connection(address, timeout=10.0) as connection:
            connection.sendall(sent)
            answer = connection.recv(1_000)

    assert answer == b"" or answer.split()[1][:1] == b"4"


def test_a_caller_that_goes_away_leaves_nothing_behind(runtime: tuple[Engine, str], artifacts: Artifacts) -> None:
    engine, url = runtime
    body, headers = as_binary(tensors_of(sound_batch()))
    address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode()

    with a_sound_caller(artifacts, url):
        for end in (len(head), len(head) + 50, len(head) + len(body)):
            with socket.create_connection(address) as connection:
                connection.sendall((head + body)[:end])

    eventually(lambda: engine.scorer.batches.waiting_requests == 0)
    assert httpx.post(url + INFER, content=body, headers=headers).status_code == 200
