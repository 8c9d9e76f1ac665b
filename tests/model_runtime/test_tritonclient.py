"""The protocol's own client against the door: what it sends and expects is not ours to choose."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from model_runtime.checkpoints import load_version
from model_runtime.networks.features import RowBatch
from model_runtime.protocol import DATATYPE_OF
from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.model_runtime.conftest import eventually, running_control_plane, running_runtime, set_up_home_feed
from tests.model_runtime.test_server import tensors_of

triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")


@pytest.fixture(scope="module")
def client(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    tmp_path = tmp_path_factory.mktemp("triton")
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        repository = artifacts.stable.folder.parents[1]
        with (
            running_runtime(control_plane, tmp_path / "runtime", repository=repository) as (_, url),
            triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4) as client,
        ):
            eventually(client.is_server_ready)
            yield client


def inputs_of(batch: RowBatch, *, binary: bool) -> list[Any]:
    inputs = []
    for name, tensor in tensors_of(batch).items():
        inputs.append(triton.InferInput(name, list(tensor.shape), DATATYPE_OF[tensor.dtype]))
        inputs[-1].set_data_from_numpy(tensor, binary_data=binary)
    return inputs


@pytest.mark.parametrize("binary", [True, False])
def test_it_gets_the_scores_of_the_version(client: Any, artifacts: Artifacts, binary: bool) -> None:
    batch = sound_batch()
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("click", "arm")]

    answer = client.infer("home_feed", inputs_of(batch, binary=binary), request_id="r1", outputs=outputs)

    expected_N = load_version(artifacts.stable.folder).score(batch)["click"]
    np.testing.assert_allclose(answer.as_numpy("click"), expected_N, atol=1e-6, rtol=0)
    assert not answer.as_numpy("arm").any()
    assert answer.get_response()["id"] == "r1"


def test_requests_side_by_side_meet_and_get_their_own_answers(client: Any, artifacts: Artifacts) -> None:
    batches = [sound_batch(num_users=4, num_rows=16, seed=seed % 3) for seed in range(24)]

    asked = [client.async_infer("home_feed", inputs_of(batch, binary=True)) for batch in batches]

    version = load_version(artifacts.stable.folder)
    for batch, each in zip(batches, asked, strict=True):
        found_N = each.get_result().as_numpy("click")
        np.testing.assert_allclose(found_N, version.score(batch)["click"], atol=1e-6, rtol=0)


def test_a_timeout_that_is_over_is_told_as_one(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="deadline passed") as caught:
        client.infer("home_feed", inputs_of(sound_batch(), binary=True), timeout=1)

    assert caught.value.status() == "503"


def test_what_it_sends_wrong_is_named(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="user_dense_UD"):
        client.infer("home_feed", [each for each in inputs_of(sound_batch(), binary=True) if each.name()[5] != "d"])


def test_it_reads_health_and_metadata(client: Any, artifacts: Artifacts) -> None:
    assert client.is_server_live()
    assert client.is_model_ready("home_feed")
    assert client.is_model_ready("home_feed", artifacts.stable.version_id)
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(client.get_server_metadata()["extensions"])
    described = client.get_model_metadata("home_feed")
    assert "history_UL" in {each["name"] for each in described["inputs"]}


def test_a_version_loaded_by_hand_scores_whom_it_is_named_by_until_it_is_unloaded(
    client: Any, artifacts: Artifacts
) -> None:
    version_id, batch = artifacts.candidate.version_id, sound_batch()

    def state() -> tuple[str, str]:
        (found,) = [each for each in client.get_model_repository_index() if each["version"] == version_id]
        return found["state"], found.get("reason", "")

    assert state() == ("UNAVAILABLE", "unloaded")
    client.load_model("home_feed", config=json.dumps({"versions": [version_id]}))
    by_hand = client.infer("home_feed", inputs_of(batch, binary=True), version_id)
    routed = client.infer("home_feed", inputs_of(batch, binary=True))

    assert state() == ("READY", "")
    expected_N = load_version(artifacts.candidate.folder).score(batch)["click"]
    np.testing.assert_allclose(by_hand.as_numpy("click"), expected_N, atol=1e-6, rtol=0)
    assert not routed.as_numpy("arm").any()
    client.unload_model("home_feed")
    assert state() == ("UNAVAILABLE", "unloaded")
    assert client.is_model_ready("home_feed")
    with pytest.raises(triton.InferenceServerException, match=version_id):
        client.infer("home_feed", inputs_of(batch, binary=True), version_id)


@pytest.mark.parametrize(
    ("surface", "config", "problem"),
    [
        ("moon", {}, "moon"),
        ("home_feed", {"versions": ["0123456789abcdef"]}, "0123456789abcdef"),
        ("home_feed", {"versions": "all"}, "parameters.versions"),
        ("home_feed", {"shadow_sample_bp": 10_001}, "parameters.shadow_sample_bp"),
        ("home_feed", {"file:1/model.pt": "AAAA"}, "file:1/model.pt"),
    ],
)
def test_a_load_that_cannot_be_is_told(client: Any, surface: str, config: dict[str, object], problem: str) -> None:
    with pytest.raises(triton.InferenceServerException, match=problem):
        client.load_model(surface, config=json.dumps(config))


def test_statistics_count_rows_forwards_and_time(client: Any, artifacts: Artifacts) -> None:
    def of_stable() -> dict[str, object]:
        found = client.get_inference_statistics("home_feed", artifacts.stable.version_id)["model_stats"]
        assert isinstance(found[0], dict)
        return found[0]

    before = of_stable()
    client.infer("home_feed", inputs_of(sound_batch(), binary=True))
    after = of_stable()

    assert after["inference_count"] - before["inference_count"] == 120  # type: ignore[operator]  # numbers
    assert after["execution_count"] - before["execution_count"] == 1  # type: ignore[operator]  # numbers
    phases = after["inference_stats"]
    assert isinstance(phases, dict)
    assert {name for name, each in phases.items() if each["ns"] > 0} >= {"success", "compute_input", "compute_infer"}
    (size,) = [each for each in after["batch_stats"] if each["batch_size"] == 128]  # type: ignore[attr-defined]
    assert size["compute_infer"]["count"] >= 1
    assert client.get_inference_statistics()["model_stats"]
