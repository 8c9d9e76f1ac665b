"""Servers that behave as no Prometheus should: every one ends in a reading that says what happened."""

import gzip
import json
import logging
import socket
import threading
import time
from base64 import b64encode
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.readings import Reading, ReadingOutcome
from control_plane.providers.contract import Unanswered
from control_plane.providers.prometheus import MAX_BYTES, _sample_of
from control_plane.providers.sources import make_sources
from tests.providers.builders import NOON_SECONDS, SOURCE, read
from tests.providers.servers import Behaviour, answers, answers_vector, free_port, never_answers, serving

PASSWORD = "s3cret/+%\"'"
ENCODED = "s3cret%2F%2B%25%22%27"


def asked(behaviour: Behaviour, *, seconds: float = 5.0, user_info: str = "", path: str = "") -> Reading:
    with serving(behaviour) as url:
        source = make_sources({SOURCE: f"prometheus+{url.replace('://', f'://{user_info}')}{path}"})[SOURCE]
        return read(source, "up", seconds=seconds)


def vector(*samples: object) -> str:
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": samples}})


def heard(behaviour: Behaviour, heads: list[str]) -> Behaviour:
    def listen(connection: socket.socket, request: bytes) -> None:
        heads.append(request.decode())
        behaviour(connection, request)

    return listen


def test_the_query_goes_out_with_the_ticks_time_and_basic_auth_and_the_url_keeps_its_prefix() -> None:
    heads: list[str] = []

    reading = asked(heard(answers_vector("2"), heads), user_info=f"ann:{ENCODED}@", path="/mimir/")

    (head,) = heads
    target = urlsplit(head.split(" ")[1])
    params = parse_qs(target.query)
    assert target.path == "/mimir/api/v1/query"
    assert (params["query"], params["time"]) == (["up"], [f"{NOON_SECONDS:.3f}"])
    assert 0 < float(params["timeout"][0]) <= 2.5
    assert f"Authorization: Basic {b64encode(f'ann:{PASSWORD}'.encode()).decode()}\r\n" in head
    assert reading.value == 2


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("1.5e-3", ReadingOutcome.VALUE),
        ("-0", ReadingOutcome.VALUE),
        ("NaN", ReadingOutcome.NAN),
        ("+Inf", ReadingOutcome.NAN),
        ("-Inf", ReadingOutcome.NAN),
        ("1e999", ReadingOutcome.NAN),
        ("nan", ReadingOutcome.FAILED),
        ("1_000", ReadingOutcome.FAILED),
        ("١", ReadingOutcome.FAILED),
        ("0x10", ReadingOutcome.FAILED),
        (" 1", ReadingOutcome.FAILED),
        ("", ReadingOutcome.FAILED),
        ("true", ReadingOutcome.FAILED),
    ],
)
def test_a_value_is_a_number_as_prometheus_writes_it(text: str, outcome: ReadingOutcome) -> None:
    reading = asked(answers_vector(text))

    assert reading.outcome is outcome
    assert (reading.value is None) == (outcome is not ReadingOutcome.VALUE)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "not an answer of Prometheus"),
        ("<html>hello</html>", "not an answer of Prometheus: <html>hello</html>"),
        ("[]", "not an answer of Prometheus"),
        ("[" * 100_000, "not an answer of Prometheus"),
        ('{"status":"success","data":' + "9" * 5_000 + "}", "not an answer of Prometheus"),
        ('{"status":"success"}', "not an answer of Prometheus"),
        ('{"status":"success","data":[]}', "not an answer of Prometheus"),
        ('{"status":"error"}', "error: without a word"),
        ('{"status":"error","errorType":"execution","error":"too many samples"}', "execution: too many samples"),
        (vector({"metric": {}, "value": [1, 2.5]}), "neither a scalar nor a vector of one sample"),
        (vector({"metric": {}, "value": ["1"]}), "neither a scalar nor a vector of one sample"),
        (vector({"metric": {}, "histogram": [1, {}]}), "histogram_quantile()"),
        (vector(*range(4_321)), "4321 series instead of one"),
        ('{"status":"success","data":{"resultType":"vector","result":{}}}', "neither a scalar nor a vector"),
        ('{"status":"success","data":{"resultType":"matrix","result":[]}}', "range vector"),
    ],
)
def test_garbage_fails_and_is_shown(body: str, words: str) -> None:
    reading = asked(answers(body))

    assert (reading.outcome, reading.value) == (ReadingOutcome.FAILED, None)
    assert words in reading.detail
    assert len(reading.detail) <= 300


def test_a_warning_beside_a_value_is_passed_on() -> None:
    body = json.loads(vector({"metric": {}, "value": [1, "1"]})) | {"warnings": ["store eu-1 is away"]}

    reading = asked(answers(json.dumps(body)))

    assert (reading.outcome, reading.detail) == (ReadingOutcome.VALUE, "with a warning: store eu-1 is away")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("500 Internal Server Error", "oh no", "answered HTTP 500: oh no"),
        ("401 Unauthorized", "", "answered HTTP 401"),
        ("503 Service Unavailable", '{"status":"error","errorType":"timeout","error":"query timed out"}', "timed out"),
        ("302 Found", "", "answered HTTP 302; redirects are not followed"),
        ("204 No Content", "", "answered HTTP 204"),
    ],
)
def test_a_refusal_fails_with_its_status(status: str, body: str, words: str) -> None:
    reading = asked(answers(body, status, "Location: http://127.0.0.1:1/elsewhere"))

    assert reading.outcome is ReadingOutcome.FAILED
    assert words in reading.detail


def test_a_redirect_is_not_followed() -> None:
    heads: list[str] = []
    with serving(heard(answers_vector("1"), heads)) as elsewhere:
        asked(answers("", "307 Temporary Redirect", f"Location: {elsewhere}/api/v1/query"), user_info="ann:pw@")

    assert heads == []


def test_a_huge_answer_is_read_no_further_than_its_limit() -> None:
    sent = 0

    def endless(connection: socket.socket, request: bytes) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 100 * MAX_BYTES:
            sent += connection.send(b" " * 65_536)

    reading = asked(endless)

    assert "longer than 1_000_000 bytes" in reading.detail
    assert sent < 20 * MAX_BYTES  # what sockets held on the way


def test_a_compressed_answer_that_nobody_asked_for_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50 * MAX_BYTES)

    reading = asked(answers(bomb, "200 OK", "Content-Encoding: gzip"))

    assert reading.outcome is ReadingOutcome.FAILED
    assert "not an answer of Prometheus" in reading.detail


def test_a_server_that_drips_is_given_up_in_time_and_let_go_of() -> None:
    let_go = threading.Event()

    def drip(connection: socket.socket, request: bytes) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            let_go.set()
            raise

    began = time.monotonic()
    with serving(drip) as url:
        source = make_sources({SOURCE: f"prometheus+{url}"})[SOURCE]
        reading = read(source, "up", seconds=0.5)
        seconds = time.monotonic() - began
        assert let_go.wait(10)

    assert reading.detail == "no answer within 0.5 s"
    assert seconds < 2


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    began = time.monotonic()

    reading = asked(never_answers, seconds=0.5)

    assert reading.detail == "no answer within 0.5 s"
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "behaviour",
    [
        answers("", "nonsense"),
        lambda connection, request: connection.sendall(b"\x00\xff garbage\r\n\r\n"),
        lambda connection, request: connection.close(),
        lambda connection, request: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        lambda connection, request: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc"),
    ],
    ids=["no status", "no HTTP", "closed", "cut short", "negative length"],
)
def test_what_is_no_http_fails(behaviour: Behaviour) -> None:
    reading = asked(behaviour)

    assert reading.outcome is ReadingOutcome.FAILED
    assert "cannot be asked" in reading.detail


def test_a_server_that_is_away_fails_at_once() -> None:
    source = make_sources({SOURCE: f"prometheus+http://ann:{ENCODED}@127.0.0.1:{free_port()}"})[SOURCE]

    reading = read(source, "up")

    assert reading.outcome is ReadingOutcome.FAILED
    assert "connection" in reading.detail


@pytest.mark.parametrize(
    "echo",
    [
        PASSWORD,
        ENCODED,
        b64encode(f"ann:{PASSWORD}".encode()).decode(),
        f"http://ann:{ENCODED}@prometheus:9090/api",
        "password=hunter2",
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_a_server_that_echoes_the_password_is_not_quoted(
    echo: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"status": "error", "error": f"who is {echo}?"})
    with caplog.at_level(logging.DEBUG):
        structured = asked(answers(body, status), user_info=f"ann:{ENCODED}@")
        plain = asked(answers(f"who is {echo}?", status), user_info=f"ann:{ENCODED}@")

    for text in (structured.detail, plain.detail, caplog.text, repr(structured), repr(plain)):
        assert "s3cret" not in text
        assert "hunter2" not in text
        assert b64encode(f"ann:{PASSWORD}".encode()).decode() not in text
    assert "***" in structured.detail


def test_no_terminal_acts_on_what_a_server_says() -> None:
    reading = asked(answers('{"status":"error","error":"\\u001b[2J\\nred\\ud800 \\u202e alert"}'))

    assert reading.detail == "error: [2J red alert"
    reading.detail.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=10) | st.sampled_from(["vector", "scalar", "1", "NaN"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["value", "metric", "result", "resultType", "histogram"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(data=JSON, status=st.sampled_from(["success", "error", 1, None]), code=st.sampled_from([200, 302, 422, 503]))
@settings(max_examples=300, deadline=None)
def test_whatever_json_comes_is_a_sample_or_a_named_failure(data: object, status: object, code: int) -> None:
    body = json.dumps({"status": status, "data": data, "warnings": data, "error": data}).encode()

    try:
        sample = _sample_of(code, body)
    except Unanswered:
        return
    assert (code, status) == (200, "success")
    assert sample.value is None or isinstance(sample.value, float)


@given(body=st.binary(max_size=200), code=st.sampled_from([200, 404, 503]))
@settings(deadline=None)
def test_whatever_bytes_come_are_a_named_failure(body: bytes, code: int) -> None:
    with pytest.raises(Unanswered):
        _sample_of(code, body)
