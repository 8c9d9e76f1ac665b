from dataclasses import asdict
from datetime import timedelta

from control_plane.clock import system_clock
from control_plane.domain.latency import NUM_LATENCY_BINS
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import ServingCounts
from control_plane.registry import runtimes
from control_plane.registry.runtimes import Heartbeat
from tests.api.deployment import BOTH_DATABASES, Deployment

pytestmark = BOTH_DATABASES


def test_a_heartbeat_is_kept_as_the_runtimes_latest_word(deployment: Deployment) -> None:
    stable = deployment.open_surface()
    counts = {stable: {"requests": 10, "errors": 1, "scores": 320, "distinct_scores": 300}}

    first = deployment.heartbeat(generations={"home_feed": 0})
    deployment.heartbeat(generations={"home_feed": 1}, loaded=[stable], counts=counts, splits_mode="stream")

    assert first.status_code == 204
    (runtime,) = deployment.client.get("/v1/runtimes").json()["runtimes"]
    assert (runtime["runtime_id"], runtime["generations"]) == ("runtime-1", {"home_feed": 1})
    assert (runtime["loaded"], runtime["splits_mode"]) == ([stable], "stream")


def test_a_silent_runtime_is_no_longer_listed(deployment: Deployment) -> None:
    heartbeat = Heartbeat(
        runtime_id="gone", generations={}, loaded=(), counts={}, shadow_dropped=0, splits_mode="stream"
    )
    silent_since = system_clock() - timedelta(seconds=deployment.parts.settings.runtime_silent_seconds + 1)
    with deployment.parts.sessions.writing() as session:
        runtimes.record_heartbeat(session, heartbeat, now=deployment.clock.now, seen_at=silent_since)

    assert deployment.client.get("/v1/runtimes").json() == {"runtimes": []}


def test_a_heartbeat_with_negative_counts_is_refused_by_its_field(deployment: Deployment) -> None:
    answer = deployment.heartbeat(counts={"0" * 16: {"requests": -1}})

    assert (answer.status_code, answer.json()["field"]) == (422, f"counts.{'0' * 16}.requests")


def test_a_heartbeats_counts_are_stored_whole(deployment: Deployment) -> None:
    stable = deployment.open_surface()
    told = ServingCounts(requests=9, calls=3, batches=3, latency_bins=(1, 2, *[0] * (NUM_LATENCY_BINS - 2)), features=4)

    assert deployment.heartbeat(counts={stable: asdict(told)}).status_code == 204

    with deployment.parts.sessions.reading() as session:
        assert runtimes.total_counts(session, VersionId(stable)) == told


def test_a_heartbeat_with_other_latency_bins_is_refused_by_their_name(deployment: Deployment) -> None:
    answer = deployment.heartbeat(counts={"0" * 16: {"latency_bins": [1, 2, 3]}})

    assert (answer.status_code, answer.json()["field"]) == (422, f"counts.{'0' * 16}.latency_bins")
    assert f"must hold {NUM_LATENCY_BINS} counts, or none, not 3" in answer.text
