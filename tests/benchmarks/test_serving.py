"""The parts of the serving benchmark that need no peer: its load, its processes, its codecs and its figures."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving_run import environments, processes
from benchmarks.serving_run.environments import PEERS, ROOT
from benchmarks.serving_run.figures import figures
from benchmarks.serving_run.load import Generator, Job, Result, generator, read_requests, write_requests
from benchmarks.serving_run.model import Exported, export_version, pages
from benchmarks.serving_run.rounds import Bench, Measured, Pair
from benchmarks.serving_run.servers import Surefoot
from benchmarks.serving_run.shadow import Shadowed
from benchmarks.serving_run.wire import TASKS, flat_rows, load, pack, pack_scores, scores_of_rows, unpack, unpack_scores
from control_plane.domain.model_version import VersionId

REQUEST = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def sender() -> Iterator[Generator]:
    with generator() as ready:
        yield ready


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> Iterator[int]:
    """A server on a free port that answers the n-th request as told."""
    asked = iter(range(1_000_000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self, next(asked))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's own name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def say(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"{}") -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def a_job(folder: Path, port: int, **overrides: object) -> Job:
    write_requests(folder / "requests", [REQUEST, REQUEST])
    fields = {"port": port, "requests": str(folder / "requests"), "connections": 2, "seconds": 0.3}
    return Job(**{**fields, **overrides})  # type: ignore[arg-type]  # tests name real fields


def test_requests_are_read_as_they_were_written(tmp_path: Path) -> None:
    requests = [b"", b"one", bytes(range(256)) * 3]

    write_requests(tmp_path / "requests", requests)

    assert read_requests(tmp_path / "requests") == requests


def test_a_closed_loop_counts_answers_and_refusals_apart(sender: Generator, tmp_path: Path) -> None:
    with answering(lambda handler, number: say(handler, 503 if number % 2 else 200, b"busy")) as port:
        result = sender.run(a_job(tmp_path, port))

    assert result.answered > 0
    assert abs(result.answered - result.failed) <= 2
    assert len(result.latencies_ms) == result.answered
    assert result.problem == "503: busy"
    assert result.cpu_seconds > 0


def test_an_answer_in_chunks_is_one_answer(sender: Generator, tmp_path: Path) -> None:
    def in_chunks(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")

    with answering(in_chunks) as port:
        result = sender.run(a_job(tmp_path, port))

    assert result.answered > 0
    assert result.failed == 0


def test_a_connection_that_is_closed_fails_its_request_and_ends_nothing_else(sender: Generator, tmp_path: Path) -> None:
    def close_third(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 2:
            handler.close_connection = True
            handler.wfile.close()
        else:
            say(handler, 200)

    with answering(close_third) as port:
        result = sender.run(a_job(tmp_path, port))

    assert result.failed == 1
    assert result.answered > 3
    assert "closed" in result.problem


def test_an_open_loop_counts_from_when_a_request_was_due(sender: Generator, tmp_path: Path) -> None:
    turn = threading.Lock()

    def one_at_a_time(handler: BaseHTTPRequestHandler, _: int) -> None:
        with turn:
            time.sleep(0.02)
        say(handler, 200)

    with answering(one_at_a_time) as port:
        result = sender.run(a_job(tmp_path, port, seconds=0.5, rate_per_s=100.0))

    # Due every 10 ms and served every 20 ms: the last waits for the 25 that stand before it.
    assert (result.answered, result.failed) == (50, 0)
    assert max(result.latencies_ms) > 400
    assert result.seconds > 0.95


def test_cpu_of_children_counts_and_none_outlives_its_server(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = f"{burn}\nopen('burnt', 'w').close()\ntime.sleep(600)"
    script = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"  # as daemons detach
        "time.sleep(600)\n"
    )
    with processes.running(
        [sys.executable, "-c", script],
        environment={},
        cwd=tmp_path,
        log=tmp_path / "log",
        is_up=(tmp_path / "burnt").exists,
        seconds=60.0,
    ) as found:
        pids, spent = found.pids(), found.cpu_seconds()

    assert len(pids) == 2
    assert spent >= 0.3
    assert found.pids() == []


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]

    with (
        pytest.raises(RuntimeError, match="no such model"),
        processes.running(
            command, environment={}, cwd=tmp_path, log=tmp_path / "log", is_up=lambda: False, seconds=60.0
        ),
    ):
        pass


def test_flat_rows_and_packed_batches_score_as_the_batch_does(tmp_path: Path) -> None:
    version = load(str(export_version(tmp_path, seed=1).folder))
    (page,) = pages(1, rows=50)
    expected_TN = np.stack([version.score(page.batch)[task] for task in TASKS])

    rows = flat_rows(page.batch)
    by_rows_TN = scores_of_rows(version, rows)
    packed_TN = unpack_scores(pack_scores(version.score(unpack(pack(page.batch)))))

    assert {len(each) for each in rows.values()} == {50}
    assert np.abs(by_rows_TN - expected_TN).max() < 1e-6
    assert np.array_equal(packed_TN, expected_TN)


def test_each_server_gets_requests_of_its_own_also_after_others_are_gone(tmp_path: Path) -> None:
    artifact = Exported(folder=tmp_path, version_id=VersionId("v"))
    with generator() as unused:
        bench = Bench(tmp_path, unused)
        asked = [bench.requests(Surefoot(0, tmp_path, artifact, feed_url=""), rows=1) for _ in range(5)]

    assert len(set(asked)) == 5


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_is_pinned_and_so_is_its_torch(peer: str) -> None:
    pins = (ROOT / "benchmarks" / "serving_run" / f"{peer}.txt").read_text().splitlines()

    assert any(line.startswith((f"{peer}==", f"{peer}[")) for line in pins)
    assert "torch==2.13.0" in pins


def test_an_environment_made_with_other_pins_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    stamp = tmp_path / ".bench" / "ray" / environments.STAMP
    assert not environments.is_installed("ray")

    stamp.parent.mkdir(parents=True)
    stamp.write_text((ROOT / "benchmarks" / "serving_run" / "ray.txt").read_text())
    assert environments.is_installed("ray")

    stamp.write_text("ray==0.1\n")
    assert not environments.is_installed("ray")


def test_a_ratio_is_over_the_peer_that_makes_it_hardest() -> None:
    compared = {
        "ray broadcast": {"c1": [a_pair(200, 100), a_pair(210, 100), a_pair(1_000, 100)]},
        "litserve broadcast": {"c1": [a_pair(150, 100, p99_ms=2.0, cpu_ms=3.0, failed=2)]},
    }

    found = figures(compared, a_shadow())

    assert found["rows_ratio_broadcast_c1"] == 1.5
    assert found["p99_ratio_broadcast_c1"] == 2.0
    assert found["cpu_ratio_broadcast_c1"] == 3.0
    assert found["ray_broadcast_c1_rows_per_s"] == 100
    assert found["failed"] == 3
    assert found["shadow_p99_ratio"] == 2.0
    assert "rows_ratio_documented_c1" not in found


def a_pair(ours: float, theirs: float, *, p99_ms: float = 1.0, cpu_ms: float = 1.0, failed: int = 0) -> Pair:
    return Pair(
        ours=Measured(rows_per_s=ours, p50_ms=1.0, p99_ms=p99_ms, cpu_ms=cpu_ms, client_cpu_share=0.1, failed=failed),
        theirs=Measured(rows_per_s=theirs, p50_ms=1.0, p99_ms=1.0, cpu_ms=1.0, client_cpu_share=0.1, failed=0),
    )


def a_shadow() -> Shadowed:
    alone, beside = (
        Result(answered=1, failed=failed, seconds=1.0, latencies_ms=[ms], cpu_seconds=0.1)
        for ms, failed in ((10.0, 0), (20.0, 1))
    )
    return Shadowed(rate_per_s=1.0, alone=[alone], beside=[beside], scored=1, dropped=0, uncounted=0)


@pytest.mark.slow
def test_a_quick_run_beside_the_peers_prints_its_figures_last() -> None:
    if not environments.is_installed("litserve"):
        pytest.skip("LitServe is not installed: make bench NAME=serving does it")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--quick"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    printed = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert printed.keys() >= {
        f"rows_ratio_{way}_c{count}" for way in ("documented", "broadcast") for count in (1, 8, 32)
    }
    assert printed.keys() >= {"small_rows_ratio_broadcast", "cpu_ratio_broadcast_c32", "shadow_p99_ratio"}
    assert (printed["failed"], printed["shadow_uncounted"]) == (0, 0)
