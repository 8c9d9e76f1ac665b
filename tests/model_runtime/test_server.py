"""The door over HTTP, in front of a real control plane."""

import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from control_plane.domain.split import Arm
from model_runtime.checkpoints import Activations, load_version
from model_runtime.engine import Engine
from model_runtime.networks.features import RowBatch
from model_runtime.scoring_request import BATCH_FIELDS
from model_runtime.shadow import ShadowJob
from model_runtime.tally import FIRST_CALLS
from tests.model_runtime.artifacts import POISONED_ITEM, Artifact, Artifacts, some_keys, sound_batch
from tests.model_runtime.conftest import NOWHERE, eventually, running_control_plane, running_runtime, set_up_home_feed
from tests.networks.builders import HOME_FEED

HEADER_LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/home_feed/infer"
DATATYPES = {"float32": "FP32", "int64": "INT64", "uint64": "UINT64"}


@dataclass(frozen=True, kw_only=True)
class Running:
    http: httpx.Client
    engine: Engine
    control_plane: httpx.Client


@pytest.fixture
def running(artifacts: Artifacts, tmp_path: Path) -> Iterator[Running]:
    with serving_home_feed(artifacts, tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """For tests that change nothing."""
    with serving_home_feed(artifacts, tmp_path_factory.mktemp("shared")) as running:
        yield running


@contextmanager
def serving_home_feed(artifacts: Artifacts, tmp_path: Path) -> Iterator[Running]:
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        limits = {"max_rows": 1_000, "max_body_bytes": 1_000_000}
        with (
            running_runtime(control_plane, tmp_path / "runtime", **limits) as (engine, url),
            httpx.Client(base_url=url) as http,
            httpx.Client(base_url=control_plane) as control,
        ):
            eventually(lambda: http.get("/v2/health/ready").status_code == 200)
            yield Running(http=http, engine=engine, control_plane=control)


def tensors_of(batch: RowBatch, *, seed: int = 0) -> dict[str, Any]:
    return {"user_key": some_keys(batch.num_users, seed=seed), **{f: getattr(batch, f) for f in BATCH_FIELDS}}


def as_json(tensors: dict[str, Any], **fields: object) -> dict[str, object]:
    inputs = [
        {"name": name, "shape": list(t.shape), "datatype": DATATYPES[str(t.dtype)], "data": t.ravel().tolist()}
        for name, t in tensors.items()
    ]
    return {"inputs": inputs, **fields}


def as_binary(tensors: dict[str, Any], **fields: object) -> tuple[bytes, dict[str, str]]:
    inputs = [
        {
            "name": name,
            "shape": list(t.shape),
            "datatype": DATATYPES[str(t.dtype)],
            "parameters": {"binary_data_size": t.nbytes},
        }
        for name, t in tensors.items()
    ]
    head = json.dumps({"inputs": inputs, **fields}).encode()
    return head + b"".join(t.tobytes() for t in tensors.values()), {HEADER_LENGTH: str(len(head))}


def outputs_of(answer: httpx.Response) -> dict[str, Any]:
    """Outputs by name, from JSON or from the bytes behind it."""
    assert answer.status_code == 200, answer.text
    end = int(answer.headers.get(HEADER_LENGTH, len(answer.content)))
    numpy_types = {"FP32": np.float32, "INT64": np.int64, "UINT64": np.uint64}
    found, offset = {}, end
    for output in json.loads(answer.content[:end])["outputs"]:
        dtype = numpy_types[output["datatype"]]
        if size := output.get("parameters", {}).get("binary_data_size"):
            found[output["name"]] = np.frombuffer(answer.content[offset : offset + size], dtype)
            offset += size
        else:
            found[output["name"]] = np.array(output["data"], dtype)
        assert list(found[output["name"]].shape) == output["shape"]
    return found


def start_ramp(running: Running, candidate: str, *, steps: tuple[str, ...] = ("50%",)) -> int:
    """A rollout that a person pushes to its first step, whatever the judge would say."""
    plan = {
        "name": "drill",
        "shadow": {"sample": "100%"},
        "steps": [*({"share": share, "bake": "1h"} for share in steps), {"share": "100%", "bake": "1d"}],
        "guardrails": [{"metric": "ctr"}],
    }
    body = {"surface": "home_feed", "candidate": candidate, "plan": plan}
    answer = running.control_plane.post("/v1/rollouts", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["rollout_id"])


def command(running: Running, rollout_id: int, name: str) -> int:
    """Give the command by hand and wait until the runtime serves its generation, which is the answer."""
    url = f"/v1/rollouts/{rollout_id}"
    seen = running.control_plane.get(url).json()["generation"]
    body = {"command": name, "seen_generation": seen, "reason": "drill"}
    answer = running.control_plane.post(f"{url}/commands", json=body)
    assert answer.status_code == 200, answer.text
    generation = int(running.control_plane.get(url).json()["generation"])
    eventually(lambda: running.engine.table.splits()[HOME_FEED].generation == generation)
    return generation


def test_json_and_binary_give_the_same_scores_as_the_version_itself(shared: Running, artifacts: Artifacts) -> None:
    batch = sound_batch()
    body, headers = as_binary(tensors_of(batch), parameters={"binary_data_output": True})

    by_json = outputs_of(shared.http.post(INFER, json=as_json(tensors_of(batch))))
    by_bytes = outputs_of(shared.http.post(INFER, content=body, headers=headers))

    expected = load_version(artifacts.stable.folder).score(batch)
    for name in ("click", "good_click", "hide"):
        np.testing.assert_allclose(by_json[name], expected[name], atol=1e-6, rtol=0)
        np.testing.assert_array_equal(by_json[name], by_bytes[name])
    assert by_bytes["arm"].tolist() == [Arm.STABLE] * 40


def test_an_answer_says_which_split_gave_it(shared: Running, artifacts: Artifacts) -> None:
    answer = shared.http.post(INFER, json=as_json(tensors_of(sound_batch()), id="r7")).json()

    assert answer["parameters"] == {"generation": 1, "stable": artifacts.stable.version_id, "candidate": ""}
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        "r7",
        "home_feed",
        artifacts.stable.version_id,
    )


def test_a_named_version_answers_without_user_keys(shared: Running, artifacts: Artifacts) -> None:
    tensors = tensors_of(sound_batch())
    del tensors["user_key"]

    answer = shared.http.post(
        f"/v2/models/home_feed/versions/{artifacts.stable.version_id}/infer", json=as_json(tensors)
    )

    assert set(outputs_of(answer)) == {"click", "good_click", "hide"}


def test_showing_picks_each_users_best_row_and_logs_it(running: Running) -> None:
    batch = sound_batch()
    body, headers = as_binary(tensors_of(batch), parameters={"show": 1, "binary_data_output": True})

    outputs = outputs_of(running.http.post(INFER, content=body, headers=headers))
    running.http.post("/v1/flush").raise_for_status()

    shown_U = outputs["shown_row"]
    assert batch.user_index_N[shown_U].tolist() == list(range(40))
    for user in range(40):
        assert outputs["click"][shown_U[user]] == outputs["click"][batch.user_index_N == user].max()
    assert len(set(outputs["impression_id"].tolist())) == 40
    counts = running.engine.sink.counts()
    assert (counts.accepted, counts.refused, counts.dropped, counts.buffered) == (40, 0, 0, 0)


def test_without_show_nothing_is_logged(shared: Running) -> None:
    outputs = outputs_of(shared.http.post(INFER, json=as_json(tensors_of(sound_batch()))))
    shared.http.post("/v1/flush").raise_for_status()

    assert "shown_row" not in outputs
    assert shared.engine.sink.counts().accepted == 0


def test_a_rollout_goes_through_shadow_and_ramp_and_is_rolled_back(running: Running, artifacts: Artifacts) -> None:
    rollout_id = start_ramp(running, artifacts.candidate.version_id)
    show = as_json(tensors_of(sound_batch()), parameters={"show": 1})

    command(running, rollout_id, "start")
    eventually(lambda: artifacts.candidate.version_id in running.engine.residency.loaded())
    command(running, rollout_id, "advance")
    in_shadow = outputs_of(running.http.post(INFER, json=show))
    running.http.post("/v1/flush").raise_for_status()
    logged_in_shadow = running.engine.sink.counts().accepted
    generation = command(running, rollout_id, "skip")
    in_ramp = running.http.post(INFER, json=show)
    command(running, rollout_id, "roll_back")
    back = outputs_of(running.http.post(INFER, json=show))

    assert not in_shadow["arm"].any()
    assert logged_in_shadow == 80  # each impression by stable, and once more by its shadow
    assert 5 < outputs_of(in_ramp)["arm"].sum() < 35
    assert in_ramp.json()["parameters"]["generation"] == generation
    assert not back["arm"].any()


def test_users_for_whom_a_candidate_fails_are_answered_by_stable_and_logged_so(
    running: Running, artifacts: Artifacts
) -> None:
    rollout_id = start_ramp(running, artifacts.poisoned.version_id, steps=("99%",))
    for name in ("start", "advance", "skip"):
        command(running, rollout_id, name)
    batch = sound_batch()
    batch.candidate_categorical_NC[:, 0] = POISONED_ITEM

    outputs = outputs_of(running.http.post(INFER, json=as_json(tensors_of(batch), parameters={"show": 1})))
    running.http.post("/v1/flush").raise_for_status()

    assert not outputs["arm"].any()
    assert np.isfinite(outputs["click"]).all()
    assert running.engine.tally.counts()[artifacts.poisoned.version_id].errors > 30
    assert running.engine.sink.counts().accepted == 40


def test_a_candidate_that_does_not_load_costs_no_user_an_answer(artifacts: Artifacts, tmp_path: Path) -> None:
    copy = Artifact(folder=tmp_path / "copy", version_id=artifacts.candidate.version_id)
    shutil.copytree(artifacts.candidate.folder, copy.folder)
    with serving_home_feed(replace(artifacts, candidate=copy), tmp_path) as running:
        (copy.folder / "trunk.safetensors").unlink()
        rollout_id = start_ramp(running, copy.version_id)
        for name in ("start", "advance", "skip"):
            command(running, rollout_id, name)

        outputs = outputs_of(running.http.post(INFER, json=as_json(tensors_of(sound_batch()))))

        assert not outputs["arm"].any()
        assert running.engine.tally.counts()[copy.version_id].errors > 0
        failed = [each for each in running.http.post("/v2/repository/index").json() if each["state"] == "UNAVAILABLE"]
        assert [each["version"] for each in failed] == [copy.version_id]
        assert "trunk.safetensors" in failed[0]["reason"]


def test_the_control_plane_hears_what_is_served_and_loaded(running: Running, artifacts: Artifacts) -> None:
    def heard() -> dict[str, Any]:
        (runtime,) = running.control_plane.get("/v1/runtimes").json()["runtimes"]
        return dict(runtime)

    eventually(lambda: heard()["generations"] == {"home_feed": 1})
    assert heard()["runtime_id"] == "test"
    assert heard()["loaded"] == [artifacts.stable.version_id]


def bad_requests() -> list[Any]:
    good = tensors_of(sound_batch())
    nan = good["candidate_dense_ND"].copy()
    nan[3, 1] = np.nan
    many = tensors_of(sound_batch(num_rows=1_001))
    return [
        pytest.param({k: v for k, v in good.items() if k != "history_UL"}, {}, "history_UL", id="an input missing"),
        pytest.param({k: v for k, v in good.items() if k != "user_key"}, {}, "user_key", id="no user keys"),
        pytest.param({**good, "age": good["history_UL"]}, {}, "age", id="an unknown input"),
        pytest.param({**good, "history_UL": good["history_UL"][:, :3]}, {}, "history_UL", id="wrong width"),
        pytest.param({**good, "user_key": good["user_key"][:-1]}, {}, "user_key", id="too few user keys"),
        pytest.param({**good, "user_key": good["user_index_N"]}, {}, "user_key", id="signed user keys"),
        pytest.param(
            {**good, "candidate_dense_ND": good["candidate_categorical_NC"]}, {}, "candidate_dense_ND", id="wrong type"
        ),
        pytest.param({**good, "candidate_dense_ND": nan}, {}, "candidate_dense_ND[3, 1]", id="NaN"),
        pytest.param({**good, "user_index_N": good["user_index_N"] + 40}, {}, "user_index_N[0]", id="no such user"),
        pytest.param({**good, "view_type_N": good["view_type_N"] - 1}, {}, "view_type_N", id="no such view type"),
        pytest.param({k: v[:0] for k, v in good.items()}, {}, "history_UL", id="empty"),
        pytest.param(many, {}, "user_index_N", id="too many rows"),
        pytest.param(good, {"parameters": {"show": 2}}, "parameters.show", id="an odd show"),
        pytest.param(good, {"parameters": {"show": 1, "served_at_ms": -1}}, "served_at_ms", id="a negative time"),
        pytest.param(good, {"parameters": {"show": 1, "served_at_ms": "now"}}, "served_at_ms", id="a time in words"),
        pytest.param(good, {"parameters": {"shown_row": 1}}, "shown_row", id="a row of one's own"),
        pytest.param(good, {"outputs": [{"name": "revenue"}]}, "outputs", id="an unknown output"),
    ]


@pytest.mark.parametrize(("tensors", "fields", "named"), bad_requests())
def test_a_bad_request_is_answered_by_the_field_it_breaks_and_harms_no_other(
    shared: Running, tensors: dict[str, Any], fields: dict[str, object], named: str
) -> None:
    body, headers = as_binary(tensors, **fields)

    answer = shared.http.post(INFER, content=body, headers=headers)

    assert answer.status_code == 400
    assert named in answer.json()["error"]
    assert shared.engine.sink.counts().buffered == 0
    assert shared.http.post(INFER, json=as_json(tensors_of(sound_batch()))).status_code == 200


def test_a_body_cut_short_is_refused(shared: Running) -> None:
    body, headers = as_binary(tensors_of(sound_batch()))

    answer = shared.http.post(INFER, content=body[:-7], headers=headers)

    assert answer.status_code == 400
    assert "binary_data_size" in answer.json()["error"]


def test_a_body_over_the_limit_is_refused(shared: Running) -> None:
    answer = shared.http.post(INFER, content=b" " * 1_000_001)

    assert answer.status_code == 413
    assert "body" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/moon/infer", 404),
        ("POST", "/v2/models/home_feed/versions/0123456789abcdef/infer", 404),
        ("GET", "/v2/models/moon", 404),
        ("GET", "/v2/models/moon/ready", 404),
        ("GET", "/nowhere", 404),
        ("GET", INFER, 405),
    ],
)
def test_what_is_not_here_is_told_in_json(shared: Running, method: str, path: str, status: int) -> None:
    content = json.dumps(as_json(tensors_of(sound_batch()))) if method == "POST" else None

    answer = shared.http.request(method, path, content=content)

    assert answer.status_code == status
    assert answer.json()["error"]


def test_metadata_describes_what_to_send(shared: Running, artifacts: Artifacts) -> None:
    described = shared.http.get("/v2/models/home_feed").json()

    assert described["versions"] == [artifacts.stable.version_id]
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in described["inputs"]}
    assert shapes["history_UL"] == ("INT64", [-1, 5])
    assert shapes["candidate_dense_ND"] == ("FP32", [-1, 2])
    assert shapes["user_key"] == ("UINT64", [-1])
    assert {"click", "arm", "shown_row", "impression_id"} <= {each["name"] for each in described["outputs"]}
    assert "binary_tensor_data" in shared.http.get("/v2").json()["extensions"]


def test_health_and_index_say_what_is_ready(shared: Running, artifacts: Artifacts) -> None:
    version_path = f"/v2/models/home_feed/versions/{artifacts.stable.version_id}/ready"
    assert shared.http.get("/v2/health/live").status_code == 200
    assert shared.http.get("/v2/models/home_feed/ready").json() == {"name": "home_feed", "ready": True}
    assert shared.http.get(version_path).json()["ready"]
    assert shared.http.post("/v2/repository/index").json() == [
        {"name": "home_feed", "version": artifacts.stable.version_id, "state": "READY"}
    ]


def test_metrics_count_requests_by_version(running: Running, artifacts: Artifacts) -> None:
    running.http.post(INFER, json=as_json(tensors_of(sound_batch()), parameters={"show": 1})).raise_for_status()
    running.http.post("/v1/flush").raise_for_status()

    text = running.http.get("/metrics").text

    assert f'surefoot_runtime_requests_total{{version="{artifacts.stable.version_id}"}} 40.0' in text
    assert 'surefoot_runtime_generation{surface="home_feed"} 1.0' in text
    assert 'surefoot_runtime_events_total{outcome="accepted"} 40.0' in text
    assert 'surefoot_runtime_request_seconds_count{surface="home_feed"} 1.0' in text


def test_beyond_what_may_wait_callers_are_sent_elsewhere(tmp_path: Path) -> None:
    with running_runtime(NOWHERE, tmp_path, max_waiting=0) as (_, url), httpx.Client(base_url=url) as http:
        answer = http.post(INFER, json=as_json(tensors_of(sound_batch())))

    assert answer.status_code == 503
    assert "waiting" in answer.json()["error"]


def test_requests_side_by_side_get_their_own_answers(shared: Running) -> None:
    batches = [sound_batch(num_users=users, num_rows=3 * users, seed=users) for users in range(1, 30)]
    bodies = [as_binary(tensors_of(batch), parameters={"binary_data_output": True}) for batch in batches]
    bodies[7] = (bodies[7][0][:-3], bodies[7][1])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: shared.http.post(INFER, content=body[0], headers=body[1]), bodies))

    stable = shared.engine.residency.get(shared.engine.split(HOME_FEED).stable)
    assert stable is not None
    for index, (batch, answer) in enumerate(zip(batches, answers, strict=True)):
        if index == 7:
            assert answer.status_code == 400
        else:
            found = outputs_of(answer)["click"]
            np.testing.assert_allclose(found, stable.score(batch)["click"], atol=1e-6, rtol=0)


def test_an_answers_head_and_body_come_in_one_write(shared: Running) -> None:
    body, headers = as_binary(tensors_of(sound_batch()), parameters={"binary_data_output": True})
    lines = [f"POST {INFER} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *map(": ".join, headers.items())]
    address = (shared.http.base_url.host, shared.http.base_url.port)
    with socket.create_connection(address) as caller:
        caller.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, rest = caller.recv(1 << 20).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"content-length: {len(rest)}".encode() in head
    assert rest


def test_without_a_control_plane_the_runtime_lives_but_is_not_ready(tmp_path: Path) -> None:
    with running_runtime(NOWHERE, tmp_path) as (_, url), httpx.Client(base_url=url) as http:
        assert http.get("/v2/health/live").status_code == 200
        assert http.get("/v2/health/ready").status_code == 503
        answer = http.post(INFER, json=as_json(tensors_of(sound_batch())))
        assert answer.status_code == 503
        assert "control plane" in answer.json()["error"]


def test_after_a_restart_without_a_control_plane_stable_serves_from_disk(
    running: Running, artifacts: Artifacts, tmp_path: Path
) -> None:
    rollout_id = start_ramp(running, artifacts.candidate.version_id)
    for name in ("start", "advance", "skip"):
        command(running, rollout_id, name)

    with running_runtime(NOWHERE, tmp_path / "runtime") as (_, url), httpx.Client(base_url=url) as http:
        eventually(lambda: http.get("/v2/health/ready").status_code == 200)
        outputs = outputs_of(http.post(INFER, json=as_json(tensors_of(sound_batch()))))

    assert not outputs["arm"].any()


def test_senders_that_never_finish_keep_nobody_else_out(tmp_path: Path) -> None:
    with running_runtime(NOWHERE, tmp_path, max_waiting=2, body_seconds=0.5) as (_, url):
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        with ExitStack() as stack:
            slow = [stack.enter_context(socket.create_connection(address)) for _ in range(4)]
            for each in slow:
                each.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())

            assert httpx.post(url + INFER, content=b"{}").status_code == 400
            assert b" 408 " in slow[0].recv(1_000)


def test_requests_that_together_fill_the_memory_are_sent_elsewhere(tmp_path: Path) -> None:
    with running_runtime(NOWHERE, tmp_path, max_held_bytes=1_000) as (_, url):
        answer = httpx.post(url + INFER, content=b"x" * 2_000)

        assert (answer.status_code, "memory" in answer.json()["error"]) == (503, True)
        assert httpx.post(url + INFER, content=b"x" * 900).status_code == 400


def test_a_shadow_of_stables_trunk_reads_its_activations_and_scores_the_same(
    running: Running, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sibling = artifacts.sibling.version_id
    running.engine.residency.pin({sibling: str(artifacts.sibling.folder)}, timeout_seconds=20.0)
    running.engine.by_hand.shadow(sibling, 10_000)
    for _ in range(FIRST_CALLS):
        running.engine.tally.asked(sibling, users=0)
    version, jobs = running.engine.residency.get(sibling), list[ShadowJob]()
    monkeypatch.setattr(running.engine.shadow, "offer", lambda _, __, make: jobs.append(make()))

    batch = sound_batch()
    outputs = outputs_of(running.http.post(INFER, json=as_json(tensors_of(batch), parameters={"show": 1})))

    (job,) = jobs
    assert version is not None
    assert isinstance(job.rows, Activations)
    found = running.engine.scorer.score_kept(version, job.rows)
    expected_N = version.score(batch)["click"][outputs["shown_row"]]
    np.testing.assert_allclose(found.click_N, expected_N, atol=1e-6, rtol=0)


def test_several_versions_loaded_by_hand_shadow_the_same_impressions(running: Running, artifacts: Artifacts) -> None:
    by_hand = (artifacts.candidate, artifacts.sibling)
    for each in by_hand:
        running.engine.residency.pin({each.version_id: str(each.folder)}, timeout_seconds=20.0)
        running.engine.by_hand.shadow(each.version_id, 10_000)

    running.http.post(INFER, json=as_json(tensors_of(sound_batch()), parameters={"show": 1})).raise_for_status()
    running.engine.shadow.drain(20.0)

    counts = running.engine.tally.counts()
    assert [counts[each.version_id].requests for each in by_hand] == [40, 40]
    assert running.engine.shadow.dropped == 0


def test_a_runtime_whose_device_hangs_is_neither_ready_nor_live(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.engine.scorer.batches, "is_hung", lambda: True)

    assert running.http.get("/v2/health/live").status_code == 503
    assert running.http.get("/v2/health/ready").status_code == 503


def test_metrics_tell_how_requests_met(running: Running) -> None:
    running.http.post(INFER, json=as_json(tensors_of(sound_batch()))).raise_for_status()
    late = as_json(tensors_of(sound_batch()), parameters={"timeout": 1})
    assert running.http.post(INFER, json=late).status_code == 503

    text = running.http.get("/metrics").text

    for name, count in (("forwards", 1), ("parts", 1), ("users_encoded", 40), ("deadline_misses", 1)):
        assert f"surefoot_runtime_batcher_{name}_total {count}.0" in text
    assert "surefoot_runtime_batcher_waiting_requests 0.0" in text
