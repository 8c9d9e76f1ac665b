import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.domain.errors import InvalidSplit
from control_plane.domain.model_version import VersionId
from control_plane.domain.split import Split
from model_runtime.split_client import (
    Snapshot,
    SplitClient,
    SplitTable,
    read_last_known_good,
    write_last_known_good,
)
from tests.builders import CANDIDATE, HOME_FEED, STABLE
from tests.model_runtime.conftest import NOWHERE, eventually
from tests.model_runtime.split_stub import split_stub

OTHER = VersionId("c" * 16)


class Seconds:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def table(seconds: Seconds) -> SplitTable:
    return SplitTable(is_ready=lambda split: True, monotonic=seconds)


def a_split(generation: int = 1, candidate_bp: int = 0, **overrides: object) -> Split:
    fields = {
        "surface": HOME_FEED,
        "generation": generation,
        "salt": "s",
        "stable": STABLE,
        "candidate": CANDIDATE if candidate_bp else None,
        "candidate_bp": candidate_bp,
        "unwatched_seconds_left": 60.0 if candidate_bp else None,
    }
    return Split(**{**fields, **overrides})  # type: ignore[arg-type]  # tests name real fields


def offer(table: SplitTable, *splits: Split, asked_at: float = 100.0) -> None:
    versions = {v: f"/models/{v}" for s in splits for v in (s.stable, s.candidate, s.shadow) if v is not None}
    table.offer(Snapshot(splits={s.surface: s for s in splits}, artifact_uris=versions), asked_at=asked_at)
    table.settle()


def served(table: SplitTable) -> Split:
    split = table.split(HOME_FEED)
    assert split is not None
    return split


def test_a_newer_generation_takes_over(table: SplitTable) -> None:
    offer(table, a_split(1))
    offer(table, a_split(2, candidate_bp=500))

    assert (served(table).generation, served(table).candidate_bp) == (2, 500)


def test_a_generation_never_goes_backwards(table: SplitTable) -> None:
    offer(table, a_split(3))

    offer(table, a_split(2, candidate_bp=500))

    assert served(table) == a_split(3)


def test_a_surface_that_an_answer_leaves_out_stays(table: SplitTable) -> None:
    offer(table, a_split(1))

    offer(table)

    assert served(table) == a_split(1)


def test_an_unwatched_candidate_goes_home_when_its_seconds_are_used_up(table: SplitTable, seconds: Seconds) -> None:
    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=60.0))

    seconds.now += 59.9
    assert served(table).candidate_bp == 500
    seconds.now += 0.1
    assert served(table).candidate_bp == 0
    assert served(table).generation == 1


def test_a_renewed_lease_lets_the_candidate_stay(table: SplitTable, seconds: Seconds) -> None:
    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=60.0))

    seconds.now += 59.0
    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=60.0), asked_at=seconds.now)
    seconds.now += 59.0

    assert served(table).candidate_bp == 500


def test_seconds_count_from_the_question_not_from_a_late_answer(table: SplitTable, seconds: Seconds) -> None:
    seconds.now += 50.0
    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=60.0), asked_at=100.0)

    seconds.now += 10.0

    assert served(table).candidate_bp == 0


def test_an_old_answer_that_comes_late_shortens_no_lease(table: SplitTable, seconds: Seconds) -> None:
    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=60.0), asked_at=100.0)

    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=60.0), asked_at=70.0)
    seconds.now += 40.0

    assert served(table).candidate_bp == 500


def test_a_split_waits_until_its_versions_are_loaded(seconds: Seconds) -> None:
    loaded = {STABLE}
    table = SplitTable(is_ready=lambda s: s.candidate is None or s.candidate in loaded, monotonic=seconds)
    offer(table, a_split(1))

    offer(table, a_split(2, candidate_bp=500))
    assert served(table).generation == 1
    assert table.ordered() == {HOME_FEED}

    loaded.add(CANDIDATE)
    table.settle()
    assert served(table).candidate_bp == 500
    assert not table.ordered()


def test_a_lease_runs_while_its_versions_load(seconds: Seconds) -> None:
    is_loaded = False
    table = SplitTable(is_ready=lambda _: is_loaded, monotonic=seconds)
    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=60.0))

    seconds.now += 61.0
    is_loaded = True
    table.settle()

    assert served(table).candidate_bp == 0


@pytest.mark.parametrize(
    ("ordered", "meanwhile_bp"),
    [
        (a_split(2, stable=OTHER), 0),
        (a_split(2, candidate_bp=100, stable=OTHER), 100),
        (a_split(2, candidate_bp=9_000, stable=OTHER), 2_500),
        (a_split(2, candidate_bp=9_000, candidate=OTHER), 0),
        (a_split(2, stable=CANDIDATE), 2_500),
    ],
    ids=["rolled back", "shrunk", "grown", "replaced", "made stable"],
)
def test_while_versions_load_weight_is_only_taken_away(ordered: Split, meanwhile_bp: int, seconds: Seconds) -> None:
    table = SplitTable(is_ready=lambda split: split.generation == 1, monotonic=seconds)
    offer(table, a_split(1, candidate_bp=2_500))

    offer(table, ordered)

    assert (served(table).generation, served(table).candidate_bp) == (1, meanwhile_bp)


def test_stables_are_wanted_before_candidates_before_shadows(table: SplitTable) -> None:
    offer(table, a_split(candidate_bp=500, shadow=OTHER))

    assert list(table.wanted()) == [STABLE, CANDIDATE, OTHER]


def test_a_version_that_the_answer_names_no_artifact_for_is_wanted_all_the_same(table: SplitTable) -> None:
    table.offer(Snapshot(splits={HOME_FEED: a_split()}, artifact_uris={}), asked_at=100.0)

    assert table.wanted() == {STABLE: ""}


def test_a_snapshot_from_disk_has_no_seconds_left(tmp_path: Path, table: SplitTable) -> None:
    path = tmp_path / "deep" / "splits.json"
    write_last_known_good(path, Snapshot(splits={HOME_FEED: a_split(4, candidate_bp=500)}, artifact_uris={}))

    snapshot = read_last_known_good(path)
    assert snapshot is not None
    table.offer(snapshot, asked_at=100.0)
    table.settle()

    assert (served(table).generation, served(table).candidate_bp) == (4, 0)


def test_after_a_cold_start_the_control_plane_renews_what_the_disk_could_not(
    table: SplitTable, seconds: Seconds
) -> None:
    offer(table, a_split(4, candidate_bp=500, unwatched_seconds_left=0.0))

    offer(table, a_split(4, candidate_bp=500), asked_at=seconds.now)

    assert served(table).candidate_bp == 500


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"splits": [{}], "versions": {}}'])
def test_a_broken_file_is_no_snapshot(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "splits.json"
    path.write_bytes(content)

    assert read_last_known_good(path) is None


def test_no_file_is_no_snapshot(tmp_path: Path) -> None:
    assert read_last_known_good(tmp_path / "splits.json") is None


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"splits": 1, "versions": {}}',
        b'{"splits": [1], "versions": {}}',
        b'{"splits": [], "versions": []}',
        b'{"splits": [], "versions": {"a": 1}}',
        json.dumps({"splits": [{**a_split().to_json(), "weights_bp": {STABLE: 9_999}}], "versions": {}}).encode(),
    ],
)
def test_an_answer_that_no_runtime_may_serve_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSplit):
        Snapshot.from_json(body)


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


def test_the_shares_of_a_snapshot_survive_its_json() -> None:
    split = replace(a_split(2, candidate_bp=1_234), shadow=OTHER, shadow_sample_bp=77)
    snapshot = Snapshot(splits={HOME_FEED: split}, artifact_uris={STABLE: "/models/a"})

    assert Snapshot.from_json(snapshot.to_json()) == snapshot
