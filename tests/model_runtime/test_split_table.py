import json
from dataclasses import replace

import pytest

from control_plane.domain.errors import InvalidSplit
from control_plane.domain.model_version import VersionId
from control_plane.domain.split import Split
from model_runtime.split_table import Snapshot, SplitTable
from tests.builders import CANDIDATE, HOME_FEED, STABLE

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


def test_a_candidate_with_weight_and_no_lease_at_all_stays_home(table: SplitTable) -> None:
    offer(table, a_split(candidate_bp=500, unwatched_seconds_left=None))

    assert served(table).candidate_bp == 0


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


def test_after_a_cold_start_the_control_plane_renews_what_the_disk_could_not(
    table: SplitTable, seconds: Seconds
) -> None:
    offer(table, a_split(4, candidate_bp=500, unwatched_seconds_left=0.0))

    offer(table, a_split(4, candidate_bp=500), asked_at=seconds.now)

    assert served(table).candidate_bp == 500


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


def test_the_shares_of_a_snapshot_survive_its_json() -> None:
    split = replace(a_split(2, candidate_bp=1_234), shadow=OTHER, shadow_sample_bp=77)
    snapshot = Snapshot(splits={HOME_FEED: split}, artifact_uris={STABLE: "/models/a"})

    assert Snapshot.from_json(snapshot.to_json()) == snapshot


def test_a_version_that_lies_elsewhere_now_is_news_though_no_split_is_newer(table: SplitTable) -> None:
    offer(table, a_split())
    moved = Snapshot(splits={HOME_FEED: a_split()}, artifact_uris={STABLE: "/elsewhere"})

    assert table.offer(moved, asked_at=100.0)
    assert not table.offer(moved, asked_at=100.0)

    assert table.wanted() == {STABLE: "/elsewhere"}


def push(table: SplitTable, split: Split, *, asked_at: float) -> bool:
    is_news = table.offer_pushed(Snapshot(splits={split.surface: split}, artifact_uris={}), asked_at=asked_at)
    table.settle()
    return is_news


def test_a_pushed_split_that_is_newer_serves_on_seconds_of_the_question_before(
    table: SplitTable, seconds: Seconds
) -> None:
    offer(table, a_split(1), asked_at=95.0)

    assert push(table, a_split(2, candidate_bp=500), asked_at=95.0)

    seconds.now = 154.0
    assert served(table).candidate_bp == 500
    seconds.now = 155.0
    assert served(table).candidate_bp == 0


def test_a_pushed_split_that_is_not_newer_renews_no_lease(table: SplitTable, seconds: Seconds) -> None:
    offer(table, a_split(2, candidate_bp=500), asked_at=90.0)

    assert not push(table, a_split(2, candidate_bp=500), asked_at=100.0)
    assert not push(table, a_split(1, candidate_bp=900), asked_at=100.0)

    seconds.now = 150.0
    assert (served(table).generation, served(table).candidate_bp) == (2, 0)
