import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model_runtime.split_client import SplitClient, read_last_known_good, write_last_known_good
from model_runtime.split_table import Snapshot, SplitTable
from tests.builders import HOME_FEED
from tests.model_runtime.conftest import NOWHERE, eventually
from tests.model_runtime.split_stub import split_stub
from tests.model_runtime.test_split_table import Seconds, a_split, served


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def test_a_snapshot_from_disk_has_no_seconds_left(tmp_path: Path) -> None:
    table = SplitTable(is_ready=lambda _: True)
    path = tmp_path / "deep" / "splits.json"
    write_last_known_good(path, Snapshot(splits={HOME_FEED: a_split(4, candidate_bp=500)}, artifact_uris={}))

    snapshot = read_last_known_good(path)
    assert snapshot is not None
    table.offer(snapshot, asked_at=time.monotonic())
    table.settle()

    assert (served(table).generation, served(table).candidate_bp) == (4, 0)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"splits": [{}], "versions": {}}'])
def test_a_broken_file_is_no_snapshot(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "splits.json"
    path.write_bytes(content)

    assert read_last_known_good(path) is None


def test_no_file_is_no_snapshot(tmp_path: Path) -> None:
    assert read_last_known_good(tmp_path / "splits.json") is None


@contextmanager
def client_of(url: str, path: Path, *, poll_seconds: float = 0.02) -> Iterator[tuple[SplitClient, SplitTable]]:
    table = SplitTable(is_ready=lambda _: True)
    client = SplitClient(table, url, path=path, on_change=table.settle, poll_seconds=poll_seconds)
    client.start()
    try:
        yield client, table
    finally:
        client.stop()


def generation_of(table: SplitTable) -> int:
    split = table.split(HOME_FEED)
    return 0 if split is None else split.generation


def test_a_change_is_seen_at_the_next_poll(tmp_path: Path) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json") as (_, table):
        stub.serve(a_split(1), etag="1")
        eventually(lambda: generation_of(table) == 1)

        stub.serve(a_split(2), etag="2")
        eventually(lambda: generation_of(table) == 2)


def test_a_push_is_followed_at_once(tmp_path: Path) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json", poll_seconds=300.0) as (client, table):
        eventually(lambda: stub.streams == 1 and stub.asked)

        stub.serve(a_split(5), etag="5")
        stub.push()

        eventually(lambda: generation_of(table) == 5, seconds=5.0)
        assert client.mode == "stream"


def test_what_is_unchanged_is_not_sent_again(tmp_path: Path) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json"):
        stub.serve(a_split(1), etag="1")

        eventually(lambda: (304, "1") in stub.asked)


def test_the_last_known_good_splits_outlive_process_and_control_plane(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    with split_stub() as (stub, url), client_of(url, path) as (_, table):
        stub.serve(a_split(7, candidate_bp=500), etag="7")
        eventually(lambda: generation_of(table) == 7 and path.exists())

    with client_of(NOWHERE, path) as (client, table):
        assert (generation_of(table), served(table).candidate_bp) == (7, 0)
        assert client.mode == "last_known_good"


def test_a_candidate_goes_home_though_the_control_plane_is_gone(tmp_path: Path, seconds: Seconds) -> None:
    table = SplitTable(is_ready=lambda _: True, monotonic=seconds)
    with split_stub() as (stub, url):
        stub.serve(a_split(1, candidate_bp=500, unwatched_seconds_left=60.0), etag="1")
        client = SplitClient(
            table, url, path=tmp_path / "s", on_change=table.settle, poll_seconds=0.02, monotonic=seconds
        )
        client.start()
        eventually(lambda: generation_of(table) == 1)
    eventually(lambda: client.mode == "last_known_good")

    assert served(table).candidate_bp == 500
    seconds.now += 60.0
    assert served(table).candidate_bp == 0
    client.stop()


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (200, b"nonsense"), (200, b'{"splits": [7]}')])
def test_an_answer_that_is_none_leaves_the_splits_as_they_were(tmp_path: Path, status: int, body: bytes) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json") as (client, table):
        stub.serve(a_split(3), etag="3")
        eventually(lambda: generation_of(table) == 3)

        stub.body, stub.etag, stub.answers_with = body, "broken", status
        eventually(lambda: client.mode == "last_known_good")
        assert generation_of(table) == 3

        stub.serve(a_split(4), etag="4")
        stub.answers_with = 200
        eventually(lambda: generation_of(table) == 4)


def test_a_stream_that_ends_is_opened_again(tmp_path: Path) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json"):
        eventually(lambda: stub.streams == 1)
        stub.push()
        stub.hang_up()

        eventually(lambda: stub.streams == 2)


def test_splits_that_a_full_disk_refused_are_written_once_it_has_room(tmp_path: Path) -> None:
    path = tmp_path / "full" / "splits.json"
    path.parent.write_text("a file where the folder should be: no disk, no root and no quota stops that")
    with split_stub() as (stub, url), client_of(url, path) as (client, table):
        stub.serve(a_split(3), etag="3")
        eventually(lambda: generation_of(table) == 3 and (304, "3") in stub.asked)
        assert client.mode != "last_known_good"

        path.parent.unlink()

        eventually(path.exists)
        assert generation_of(table) == 3


def test_an_answer_that_nobody_foresaw_does_not_end_the_polling(tmp_path: Path) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json") as (_, table):
        huge = a_split(1, candidate_bp=500).to_json() | {"unwatched_seconds_left": 10**400}
        stub.body, stub.etag = json.dumps({"splits": [huge], "versions": {}}).encode(), "huge"
        eventually(lambda: len(stub.asked) > 1)

        stub.serve(a_split(2), etag="2")

        eventually(lambda: generation_of(table) == 2)


def test_a_push_takes_effect_though_no_question_is_answered_any_more(tmp_path: Path) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json") as (_, table):
        stub.serve(a_split(1), etag="1")
        eventually(lambda: generation_of(table) == 1 and stub.streams == 1)
        stub.answers_with = 500
        asked = len(stub.asked)
        eventually(lambda: len(stub.asked) > asked)

        stub.serve(a_split(2), etag="2")
        stub.push()

        eventually(lambda: generation_of(table) == 2)


def test_a_push_that_is_no_snapshot_is_passed_over(tmp_path: Path) -> None:
    with split_stub() as (stub, url), client_of(url, tmp_path / "splits.json") as (_, table):
        stub.serve(a_split(1), etag="1")
        eventually(lambda: generation_of(table) == 1 and stub.streams == 1)

        stub.body, stub.answers_with = b'{"splits": [7]}', 500
        stub.push()
        stub.serve(a_split(2), etag="2")
        stub.push()

        eventually(lambda: generation_of(table) == 2)
