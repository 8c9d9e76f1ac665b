import json

import numpy as np

from control_plane.demo.scoring_client import decode_answer, encode_request
from control_plane.demo.traffic import simulated_requests
from tests.demo.contexts import some_contexts


def test_a_request_names_every_tensor_with_its_bytes() -> None:
    requests = simulated_requests(some_contexts(), 4, served_at_ms=99, rng=np.random.default_rng(1))

    head, body = encode_request(requests)

    described = json.loads(head)
    sizes = [tensor["parameters"]["binary_data_size"] for tensor in described["inputs"]]
    assert sum(sizes) == len(body)
    assert described["parameters"] == {"show": 1, "served_at_ms": 99}
    assert np.frombuffer(body[: sizes[0]], "<u8").tolist() == requests.user_key_U.tolist()


def test_an_answer_is_read_from_binary_tensors_and_from_json_alike() -> None:
    score_N, arm_U = np.array([0.25, 0.5], np.float32), np.array([1], np.int64)
    head = json.dumps(
        {
            "outputs": [
                {"name": "click", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
                {"name": "arm", "shape": [1], "datatype": "INT64", "data": [1]},
            ]
        }
    ).encode()

    outputs = decode_answer(head + score_N.tobytes(), str(len(head)))

    assert outputs["click"].tolist() == score_N.tolist()
    assert outputs["arm"].tolist() == arm_U.tolist()
