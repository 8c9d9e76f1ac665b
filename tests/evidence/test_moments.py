"""Moments are a pure function of the events, and the right one."""

import random
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from control_plane.domain.events import HOME_ARM, Label
from control_plane.domain.moments import Measure, Moments
from control_plane.domain.split import UserKey
from control_plane.evidence import shard_sums
from control_plane.evidence.aggregate import moments
from control_plane.evidence.event_log import DAY_MS
from tests.builders import CANDIDATE
from tests.evidence.brute_force import brute_force
from tests.evidence.events import (
    DAY,
    HOUR_MS,
    OTHER,
    START_MS,
    Event,
    a_log,
    a_query,
    an_engagement,
    an_exposure,
    by_kind,
    random_events,
)

IntArray = NDArray[np.int64]


def assert_identical(found: Moments, expected: Moments) -> None:
    for field in fields(Moments):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            assert np.array_equal(ours, theirs), field.name
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("as_of_ms", [START_MS + 3 * DAY_MS + 7 * HOUR_MS, START_MS + 9 * DAY_MS])
def test_moments_are_what_a_slow_count_of_the_same_events_gives(tmp_path: Path, seed: int, as_of_ms: int) -> None:
    events = random_events(seed)
    query = a_query(as_of_ms=as_of_ms)

    found = moments(a_log(tmp_path, events), query)

    assert found.counts_MGSAK.any()
    assert found.pairs_GKP.any()
    assert_identical(found, brute_force(events, query))


@given(
    seed=st.integers(0, 2**32),
    order=st.randoms(use_true_random=False),
    num_batches=st.integers(1, 4),
    num_repeats=st.integers(0, 30),
)
@settings(max_examples=8, deadline=None)
def test_moments_do_not_depend_on_how_events_came_in(
    seed: int, order: random.Random, num_batches: int, num_repeats: int
) -> None:
    events = random_events(seed, impressions=25, users=6, days=2)
    arrivals = [*events, *order.choices(events, k=num_repeats)]
    order.shuffle(arrivals)
    batches = [arrivals[start::num_batches] for start in range(num_batches)]
    query = a_query(as_of_ms=START_MS + 2 * DAY_MS + HOUR_MS)

    with TemporaryDirectory() as folder:
        log = a_log(Path(folder) / "at_once", events)
        at_once = moments(log, query)
        log = a_log(Path(folder) / "in_pieces")
        for batch in batches:
            log.append(by_kind(batch))
            in_pieces = moments(log, query)  # closed days are remembered, then change by what comes late

        assert_identical(in_pieces, at_once)
        assert_identical(moments(log, query), at_once)


def test_large_days_are_summed_shard_by_shard_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = random_events(7, days=2)
    log = a_log(tmp_path, events)
    query = a_query(as_of_ms=START_MS + 2 * DAY_MS + HOUR_MS)

    monkeypatch.setattr(shard_sums, "ROWS_AT_ONCE", 20)

    assert_identical(moments(log, query), brute_force(events, query))


def test_users_of_more_generations_than_a_word_has_bits_for_are_told_apart(tmp_path: Path) -> None:
    draw = random.Random(8)
    events = [
        an_exposure(
            impression_id=number,
            user_key=draw.randrange(60),
            served_at_ms=START_MS + draw.randrange(2 * DAY_MS),
            generation=draw.randrange(1, 80),
            **draw.choice(({"arm": "stable"}, {"arm": "candidate", "version_id": CANDIDATE})),
        )
        for number in range(1_000)
    ]
    query = a_query(shares=dict.fromkeys(range(1, 80), 5_000), since_ms=START_MS)

    found = moments(a_log(tmp_path, events), query)

    assert 0 < found.cross_exposed_users < 60
    assert_identical(found, brute_force(events, query))


def test_users_are_drawn_where_a_larger_weight_first_told_of_their_slot(tmp_path: Path) -> None:
    """User 1 is known from the shadow, user 2 from stable at 10 %, user 3 from the candidate, user 4 met both arms."""
    candidate = {"arm": "candidate", "version_id": CANDIDATE}
    seen: dict[int, list[tuple[int, dict[str, Any]]]] = {
        1: [(1, {}), (4, candidate)],
        2: [(2, {}), (3, {}), (4, {})],
        3: [(2, candidate), (4, candidate)],
        4: [(2, {}), (4, {}), (4, candidate)],
        5: [(3, {}), (5, candidate)],
        6: [(5, candidate)],
    }
    places = [(user, *place) for user, visits in seen.items() for place in visits]
    events: list[Event] = [
        an_exposure(
            impression_id=number,
            user_key=UserKey(user),
            generation=generation,
            served_at_ms=START_MS + generation * HOUR_MS,
            **served,
        )
        for number, (user, generation, served) in enumerate(places)
    ]
    query = a_query(shares={1: 0, 2: 1_000, 3: 1_000, 4: 5_000, 5: 10_000}, since_ms=START_MS)

    found = moments(a_log(tmp_path, events), query)

    assert [(draw.generation, draw.above_bp, draw.stable, draw.candidate) for draw in found.draws] == [
        (2, 0, 1, 1),
        (3, 0, 1, 0),
        (4, 0, 0, 1),
        (4, 1_000, 1, 0),
    ]
    assert_identical(found, brute_force(events, query))


def test_compaction_changes_no_sum(tmp_path: Path) -> None:
    events = random_events(3)
    log = a_log(tmp_path, *(events[start::5] for start in range(5)))
    query = a_query(as_of_ms=START_MS + 9 * DAY_MS)
    before = moments(log, query)

    compacted = [log.compact(partition) for partition in log.snapshot()]

    assert any(compacted)
    assert_identical(moments(log, query), before)


def test_evidence_of_a_new_generation_counts_in_days_that_were_summed_before_it(tmp_path: Path) -> None:
    events = random_events(4)
    log = a_log(tmp_path, events)
    as_of_ms = START_MS + 9 * DAY_MS
    moments(log, a_query(shares={1: 0}, as_of_ms=as_of_ms))

    query = a_query(shares={1: 0, 2: 100, 3: 500}, as_of_ms=as_of_ms)

    assert_identical(moments(log, query), brute_force(events, query))


def test_damaged_remembered_sums_are_summed_again(tmp_path: Path) -> None:
    log = a_log(tmp_path, random_events(5))
    query = a_query(as_of_ms=START_MS + 9 * DAY_MS)
    before = moments(log, query)
    remembered = list((tmp_path / "sums").rglob("*.npz"))
    for path in remembered:
        path.write_bytes(path.read_bytes()[:100])

    assert remembered
    assert_identical(moments(log, query), before)


def test_an_empty_log_gives_empty_moments(tmp_path: Path) -> None:
    found = moments(a_log(tmp_path), a_query())

    assert found.strata == ()
    assert found.counts_MGSAK.shape == (8, 3, 0, 2, 256)
    assert found.draws == ()
    assert found.newest_event_ms is None
    assert found.candidate_newest_ms is None


def test_a_click_counts_once_however_often_it_happened(tmp_path: Path) -> None:
    clicks = [an_engagement(event_id=event_id) for event_id in range(3)]
    log = a_log(tmp_path, [an_exposure(), *clicks])

    found = moments(log, a_query(since_ms=START_MS))

    assert found.sums_of(Measure.CLICK)[0].sum() == 1


def test_revenue_adds_up_to_the_cap(tmp_path: Path) -> None:
    sales = [an_engagement(event_id=event_id, label=Label.REVENUE, value=20.0) for event_id in range(3)]
    log = a_log(tmp_path, [an_exposure(), *sales, *sales])

    found = moments(log, a_query(since_ms=START_MS, revenue_cap=50.0))

    assert found.sums_of(Measure.REVENUE)[0].sum() == 50_000_000


@pytest.mark.parametrize(("age_ms", "matured"), [(HOUR_MS - 1, 0), (HOUR_MS, 1)])
def test_an_impression_enters_a_label_once_its_window_has_passed(tmp_path: Path, age_ms: int, matured: int) -> None:
    log = a_log(tmp_path, [an_exposure(), an_engagement()])

    found = moments(log, a_query(since_ms=START_MS, as_of_ms=START_MS + age_ms))

    assert found.sums_of(Measure.IMPRESSIONS)[0].sum() == 1
    assert found.sums_of(Measure.MATURED_CLICK)[0].sum() == matured
    assert found.sums_of(Measure.CLICK)[0].sum() == matured


def test_a_label_after_its_window_never_counts(tmp_path: Path) -> None:
    late = an_engagement(occurred_at_ms=START_MS + HOUR_MS + 1)
    log = a_log(tmp_path, [an_exposure(), late])

    found = moments(log, a_query(since_ms=START_MS))

    assert found.sums_of(Measure.CLICK)[0].sum() == 0


def test_a_label_that_comes_before_its_exposure_is_logged_counts_once_both_are_there(tmp_path: Path) -> None:
    log = a_log(tmp_path, [an_engagement()], [an_exposure()])

    found = moments(log, a_query(since_ms=START_MS))

    assert found.strata[0].day == DAY
    assert found.sums_of(Measure.CLICK)[0].sum() == 1


def test_what_was_shown_while_the_candidate_was_at_home_speaks_for_neither_arm(tmp_path: Path) -> None:
    """User 1 met the candidate before and user 2 after, both under the generation in which it went home."""
    served = {"generation": 2, "user_key": UserKey(1)}
    before = an_exposure(impression_id=1, arm="candidate", version_id=CANDIDATE, **served)
    meanwhile = [
        an_exposure(
            impression_id=10 + user, arm=HOME_ARM, generation=2, user_key=UserKey(user), served_at_ms=START_MS + HOUR_MS
        )
        for user in (1, 2, 3)
    ]
    after = an_exposure(impression_id=2, arm="candidate", version_id=CANDIDATE, generation=2, user_key=UserKey(2))
    events: list[Event] = [before, *meanwhile, after]

    found = moments(a_log(tmp_path, events), a_query(since_ms=START_MS))

    assert (found.users_A, found.cross_exposed_users) == ((0, 2), 0)
    assert [(draw.stable, draw.candidate) for draw in found.draws] == [(0, 2)]
    assert found.sums_of(Measure.IMPRESSIONS)[0].sum() == 2
    assert (found.newest_event_ms, found.candidate_newest_ms) == (START_MS + HOUR_MS, START_MS + HOUR_MS), (
        "it is at home, not idle"
    )
    assert_identical(found, brute_force(events, a_query(since_ms=START_MS)))


BEFORE_START = {"since_ms": START_MS + 3 * DAY_MS + HOUR_MS, "salt": "home_feed/rollout/7", "pre_period_days": 2}


def before_of(found: Moments) -> IntArray:
    assert found.before_MGAK is not None
    return found.before_MGAK


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("as_of_ms", [START_MS + 3 * DAY_MS + 7 * HOUR_MS, START_MS + 9 * DAY_MS])
def test_days_before_the_start_are_summed_by_the_arms_of_the_present_split(
    tmp_path: Path, seed: int, as_of_ms: int
) -> None:
    events = random_events(seed)
    query = a_query(**BEFORE_START, as_of_ms=as_of_ms)

    found = moments(a_log(tmp_path, events), query)

    assert before_of(found).dtype == np.int64
    assert before_of(found)[Measure.IMPRESSIONS, 0].sum(axis=1).all(), "both arms had users before"
    assert_identical(found, brute_force(events, query))


@given(seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False), num_batches=st.integers(1, 3))
@settings(max_examples=6, deadline=None)
def test_days_before_do_not_depend_on_how_events_came_in(seed: int, order: random.Random, num_batches: int) -> None:
    events = random_events(seed, impressions=30, users=6)
    arrivals = [*events, *order.choices(events, k=10)]
    order.shuffle(arrivals)
    query = a_query(**BEFORE_START, as_of_ms=START_MS + 6 * DAY_MS)

    with TemporaryDirectory() as folder:
        log = a_log(Path(folder))
        for start in range(num_batches):
            log.append(by_kind(arrivals[start::num_batches]))
            found = moments(log, query)  # days before are remembered, then change by what comes late

        assert_identical(found, brute_force(events, query))
        assert_identical(moments(log, query), found)


def test_large_days_before_are_summed_shard_by_shard_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = random_events(9)
    query = a_query(**BEFORE_START, as_of_ms=START_MS + 9 * DAY_MS)
    log = a_log(tmp_path, events)

    monkeypatch.setattr(shard_sums, "ROWS_AT_ONCE", 20)

    assert_identical(moments(log, query), brute_force(events, query))


@pytest.mark.parametrize("shares", [{1: 0}, {1: 0, 2: 2_500}], ids=["from the shadow", "from the ramp"])
def test_a_weight_that_was_foreseen_needs_no_second_pass_over_the_days_before(
    tmp_path: Path, shares: dict[int, int]
) -> None:
    events = random_events(10)
    query = a_query(**BEFORE_START, shares=shares, weights_bp=(2_500, 5_000, 10_000), as_of_ms=START_MS + 9 * DAY_MS)
    log = a_log(tmp_path, events)
    moments(log, query)
    for segments in log.snapshot().values():
        for path in log.files(segments):
            Path(path).unlink()

    grown = replace(query, shares={1: 0, 2: 2_500, 3: 5_000})
    found = moments(log, grown)

    assert_identical(found, brute_force(events, grown))


def test_a_weight_that_nobody_foresaw_is_read_anew(tmp_path: Path) -> None:
    events = random_events(11)
    query = a_query(**BEFORE_START, shares={2: 2_500}, as_of_ms=START_MS + 9 * DAY_MS)
    log = a_log(tmp_path, events)
    moments(log, query)

    grown = replace(query, shares={2: 2_500, 3: 4_000})

    assert_identical(moments(log, grown), brute_force(events, grown))


def test_at_full_traffic_users_stay_in_the_arms_of_the_last_split_that_both_shared(tmp_path: Path) -> None:
    query = a_query(**BEFORE_START, shares={2: 2_500}, as_of_ms=START_MS + 9 * DAY_MS)
    log = a_log(tmp_path, random_events(12))

    shared, full = moments(log, query), moments(log, replace(query, shares={2: 2_500, 3: 10_000}))

    assert np.array_equal(before_of(full), before_of(shared))


@pytest.mark.parametrize(
    "overrides",
    [
        {"pre_period_days": 0},
        {"shares": {1: 0, 2: 10_000}},
        {"since_ms": START_MS + 2 * HOUR_MS},
    ],
    ids=["none were asked for", "there never was a split", "the log begins with the rollout"],
)
def test_there_are_no_days_before_where(tmp_path: Path, overrides: dict[str, Any]) -> None:
    log = a_log(tmp_path, random_events(13))

    found = moments(log, a_query(**{**BEFORE_START, "as_of_ms": START_MS + 9 * DAY_MS, **overrides}))

    assert found.before_MGAK is None


def test_days_before_change_nothing_else(tmp_path: Path) -> None:
    log = a_log(tmp_path, random_events(14))
    query = a_query(**BEFORE_START, as_of_ms=START_MS + 9 * DAY_MS)

    found = moments(log, query)

    assert_identical(replace(found, before_MGAK=None), moments(log, replace(query, pre_period_days=0)))


def test_whatever_served_a_user_before_counts_and_the_day_of_the_start_does_not(tmp_path: Path) -> None:
    events: list[Event] = [
        an_exposure(impression_id=1, arm=HOME_ARM, served_at_ms=START_MS + DAY_MS),
        an_exposure(impression_id=2, version_id=OTHER, generation=9, served_at_ms=START_MS + 2 * DAY_MS),
        an_exposure(impression_id=3, arm="candidate", version_id=CANDIDATE, served_at_ms=START_MS + 3 * DAY_MS - 1),
        an_exposure(impression_id=4, served_at_ms=START_MS + 3 * DAY_MS),
        an_exposure(impression_id=5, served_at_ms=START_MS + DAY_MS - 1),
    ]
    found = moments(a_log(tmp_path, events), a_query(**BEFORE_START, as_of_ms=START_MS + 9 * DAY_MS))

    assert before_of(found)[Measure.IMPRESSIONS, 0].sum() == 3
