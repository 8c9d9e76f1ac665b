from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from control_plane.domain.latency import NUM_LATENCY_BINS
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import Health, ServingCounts
from control_plane.domain.rollout import Command, Phase
from control_plane.registry import runtimes, surfaces
from control_plane.registry.runtimes import Heartbeat
from control_plane.registry.session import Sessions
from control_plane.registry.tables import RuntimeCountsRow
from tests.builders import HOME_FEED, NOON, a_version
from tests.registry import scene
from tests.registry.scene import LATER

A, B = a_version("a").version_id, a_version("b").version_id
LONG_AGO = NOON - timedelta(days=1)


def beat(session: Session, runtime_id: str = "gpu-1", *, generation: int = 1, **overrides: Any) -> None:
    seen_at = overrides.pop("seen_at", NOON)
    fields: dict[str, Any] = {
        "runtime_id": runtime_id,
        "generations": {"home_feed": generation},
        "loaded": (A,),
        "counts": {},
        "shadow_dropped": 0,
        "splits_mode": "live",
    }
    runtimes.record_heartbeat(session, Heartbeat(**{**fields, **overrides}), now=LATER, seen_at=seen_at)


def health(session: Session, *, live_since: Any = NOON) -> Health:
    return runtimes.health(session, surfaces.get(session, HOME_FEED), A, B, live_since=live_since)


def bins(*first: int) -> tuple[int, ...]:
    return first + (0,) * (NUM_LATENCY_BINS - len(first))


def test_a_runtime_is_known_as_it_last_told(sessions: Sessions) -> None:
    with sessions.writing() as session:
        beat(session, generation=1)
        beat(session, generation=2, loaded=(A, B), shadow_dropped=3)

        (runtime,) = runtimes.live(session, since=NOON)

    assert (runtime.generations, runtime.loaded, runtime.shadow_dropped) == ({"home_feed": 2}, (A, B), 3)
    assert (runtime.seen_at, runtime.at) == (NOON, LATER)


def test_a_silent_runtime_is_not_live(sessions: Sessions) -> None:
    with sessions.writing() as session:
        beat(session, "gpu-1", seen_at=LONG_AGO)
        beat(session, "gpu-2")

        assert [runtime.runtime_id for runtime in runtimes.live(session, since=NOON)] == ["gpu-2"]


def test_readiness_counts_the_live_runtimes_of_the_candidates_surface(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        candidate = scene.registered(session, a_version("b"))
        beat(session, "gpu-1", loaded=(A, candidate))
        beat(session, "gpu-2", loaded=(A,))
        beat(session, "gone", loaded=(A,), seen_at=LONG_AGO)
        beat(session, "elsewhere", generations={"search": 1}, loaded=())

        free = runtimes.readiness(session, candidate, live_since=NOON)
        blocked = runtimes.readiness(session, candidate, live_since=NOON, blocked_by="search to start")

    assert (free.may_start, free.live_runtimes, free.loaded_runtimes) == (True, 2, 1)
    assert (blocked.may_start, blocked.blocked_by) == (False, "search to start")


def test_health_adds_up_runtimes_and_tells_who_follows(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        beat(session, "gpu-1", counts={A: ServingCounts(requests=10, errors=1, distinct_scores=5)}, shadow_dropped=2)
        beat(session, "gpu-2", counts={A: ServingCounts(requests=20, distinct_scores=7)}, generation=0)

        found = health(session)

    assert found.stable == ServingCounts(requests=30, errors=1, distinct_scores=7)
    assert found.candidate == ServingCounts()
    assert (found.live_runtimes, found.acknowledged_runtimes, found.shadow_dropped) == (2, 1, 2)


def test_counts_go_on_over_a_runtimes_restart_and_its_end(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        beat(session, counts={A: ServingCounts(requests=10, errors=4)})
        beat(session, counts={A: ServingCounts(requests=12, errors=4)})
        beat(session, counts={A: ServingCounts(requests=3)}, seen_at=LONG_AGO)

        found = health(session)

    assert (found.stable.requests, found.stable.errors, found.live_runtimes) == (15, 4, 0)


def test_what_was_counted_before_the_rollout_is_no_evidence(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        beat(session, counts={A: ServingCounts(requests=1_000, errors=900, distinct_scores=50)})
        rollout_id = scene.a_rollout_in(session, Phase.PENDING)
        scene.commanded(session, rollout_id, Command.START)
        beat(session, counts={A: ServingCounts(requests=1_010, errors=901, distinct_scores=50)})

        found = health(session)

    assert (found.stable.requests, found.stable.errors) == (10, 1)


def test_latencies_add_up_bin_by_bin_over_runtimes_and_restarts(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        beat(session, "gpu-1", counts={A: ServingCounts(batches=3, latency_bins=bins(2, 1))})
        beat(session, "gpu-1", counts={A: ServingCounts(batches=5, latency_bins=bins(2, 3))})
        beat(session, "gpu-2", counts={A: ServingCounts(batches=4, latency_bins=bins(1, 3))})
        beat(session, "gpu-2", counts={A: ServingCounts(batches=4, latency_bins=bins(2, 2))})

        found = health(session).stable

    assert (found.batches, found.latency_bins) == (13, bins(5, 8))


def test_latencies_before_the_rollout_are_no_evidence(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        beat(session, counts={A: ServingCounts(batches=900, latency_bins=bins(0, 900), latency_us=10**9)})
        rollout_id = scene.a_rollout_in(session, Phase.PENDING)
        scene.commanded(session, rollout_id, Command.START)
        beat(session, counts={A: ServingCounts(batches=910, latency_bins=bins(10, 900), latency_us=10**9 + 10)})

        found = health(session).stable

    assert (found.batches, found.latency_bins, found.latency_us) == (10, bins(10, 0), 10)


def test_lost_features_are_those_of_the_live_runtime_that_lacks_most_by_its_latest_word(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        for runtime, lost, seen_at in (
            ("gpu-1", 5, NOON),
            ("gpu-1", 2, NOON),
            ("gpu-2", 1, NOON),
            ("gone", 7, LONG_AGO),
        ):
            counts = {A: ServingCounts(calls=1, features=8, features_lost=lost)}
            beat(session, runtime, counts=counts, seen_at=seen_at)

        found = health(session).stable

    assert (found.features, found.features_lost) == (8, 2)
    assert found.calls == 3


def test_a_feature_found_again_is_no_restart(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        beat(session, counts={A: ServingCounts(calls=10, features=8, features_lost=1)})
        beat(session, counts={A: ServingCounts(calls=11, features=8, features_lost=0)})

        found = health(session).stable

    assert (found.calls, found.features_lost) == (11, 0)


def test_rows_that_knew_fewer_counts_are_still_read(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        beat(session)
        known = {"requests": 10, "errors": 1, "timeouts": 0, "scores": 40, "bad_scores": 0, "distinct_scores": 7}
        session.add(RuntimeCountsRow(runtime_id="gpu-1", version_id=A, told=known, totals=known))
        session.flush()
        beat(session, counts={A: ServingCounts(requests=12, scores=48, errors=1, distinct_scores=8, calls=2)})

        found = health(session).stable

    assert found == ServingCounts(requests=12, scores=48, errors=1, distinct_scores=8, calls=2)


def test_a_version_that_nobody_knows_has_no_runtimes(sessions: Sessions) -> None:
    with sessions.writing() as session:
        beat(session)

        assert runtimes.readiness(session, VersionId("f00d"), live_since=NOON).live_runtimes == 0
