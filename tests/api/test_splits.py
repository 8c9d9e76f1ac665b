import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.app import create_app
from control_plane.domain.split import Split
from control_plane.domain.verdict import Outcome
from control_plane.registry import evidence
from control_plane.settings import Settings
from tests.api.deployment import BOTH_DATABASES, Deployment, MovedClock, write_artifact
from tests.api.live_server import serving
from tests.builders import a_verdict

pytestmark = BOTH_DATABASES

PUSHED_WITHIN_SECONDS = 1.0  # a bad candidate must be off every surface within this


@pytest.fixture
def streaming(settings: Settings, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment behind a real socket."""
    clock = MovedClock()
    app = create_app(settings, clock.read)
    with serving(app) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield Deployment(client=client, app=app, clock=clock, artifacts=tmp_path / "artifacts")


@contextmanager
def followed(deployment: Deployment) -> Iterator[Iterator[dict[str, Any]]]:
    with deployment.client.stream("GET", "/v1/splits/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        yield (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))


def renew_lease(deployment: Deployment, rollout: dict[str, Any]) -> None:
    verdict = a_verdict(Outcome.HOLD, generation=rollout["generation"])
    with deployment.parts.sessions.writing() as session:
        evidence.record_verdict(
            session, rollout["rollout_id"], verdict, b"", now=deployment.clock.now, next_check_at=None
        )


def test_splits_name_what_serves_and_where_it_lies(deployment: Deployment) -> None:
    rollout = deployment.ramp(deployment.create_rollout()["rollout_id"])
    deployment.create_surface("serves_nothing_yet")

    answer = deployment.client.get("/v1/splits").json()

    split = Split.from_json(answer["splits"][0])
    assert (split.candidate, split.candidate_bp, split.generation) == (rollout["candidate"], 100, rollout["generation"])
    assert split.unwatched_seconds_left == 900.0
    assert answer["versions"].keys() == {rollout["stable"], rollout["candidate"]}
    assert Path(answer["versions"][rollout["stable"]]).name == "stable"
    assert len(answer["splits"]) == 1


def test_a_poller_is_told_nothing_new_while_only_seconds_tick(deployment: Deployment) -> None:
    deployment.ramp(deployment.create_rollout()["rollout_id"])
    etag = deployment.client.get("/v1/splits").headers["ETag"]
    deployment.clock.move(seconds=60)

    answer = deployment.client.get("/v1/splits", headers={"If-None-Match": etag})

    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert deployment.client.get("/v1/splits").json()["splits"][0]["unwatched_seconds_left"] == 840.0


def test_a_poller_hears_of_a_renewed_lease_and_of_a_change(deployment: Deployment) -> None:
    rollout = deployment.ramp(deployment.create_rollout()["rollout_id"])
    first = deployment.client.get("/v1/splits").headers["ETag"]
    deployment.clock.move(seconds=60)
    renew_lease(deployment, rollout)

    renewed = deployment.client.get("/v1/splits", headers={"If-None-Match": first})
    deployment.command(rollout["rollout_id"], "roll_back")
    changed = deployment.client.get("/v1/splits", headers={"If-None-Match": renewed.headers["ETag"]})

    assert (renewed.status_code, renewed.json()["splits"][0]["unwatched_seconds_left"]) == (200, 900.0)
    assert (changed.status_code, changed.json()["splits"][0]["candidate"]) == (200, None)


def test_a_stream_begins_with_the_present_splits_and_pushes_a_rollback_within_a_second(streaming: Deployment) -> None:
    rollout = streaming.ramp(streaming.create_rollout()["rollout_id"])

    with followed(streaming) as pushed:
        present = next(pushed)
        streaming.command(rollout["rollout_id"], "roll_back")
        began = time.monotonic()
        after = next(pushed)
        took_seconds = time.monotonic() - began

    assert present == {**streaming.client.get("/v1/splits").json(), **present}
    assert present["splits"][0]["weights_bp"][rollout["candidate"]] == 100
    assert after["splits"][0]["weights_bp"] == {rollout["stable"]: 10_000}
    assert took_seconds < PUSHED_WITHIN_SECONDS


def test_a_stream_pushes_a_renewed_lease_though_no_weight_changed(streaming: Deployment) -> None:
    rollout = streaming.ramp(streaming.create_rollout()["rollout_id"])

    with followed(streaming) as pushed:
        next(pushed)
        streaming.clock.move(seconds=60)
        renew_lease(streaming, rollout)
        after = next(pushed)["splits"][0]

    assert (after["generation"], after["unwatched_seconds_left"]) == (rollout["generation"], 900.0)


def test_a_reader_that_left_is_no_longer_counted(streaming: Deployment) -> None:
    streaming.open_surface()
    feed = streaming.parts.split_feed
    with followed(streaming) as pushed:
        next(pushed)
        assert feed.listeners == 1

    deadline = time.monotonic() + 10
    while feed.listeners and time.monotonic() < deadline:
        time.sleep(0.02)

    assert feed.listeners == 0


def test_a_version_registered_from_another_folder_is_told_to_pollers(deployment: Deployment, tmp_path: Path) -> None:
    stable = deployment.open_surface()
    etag = deployment.client.get("/v1/splits").headers["ETag"]
    folder = write_artifact(tmp_path / "elsewhere", "stable", trunk="stable")
    assert deployment.client.post("/v1/versions", json={"artifact_uri": str(folder)}).json()["version_id"] == stable

    answer = deployment.client.get("/v1/splits", headers={"If-None-Match": etag})

    assert (answer.status_code, answer.json()["versions"]) == (200, {stable: str(folder)})
