import json
import math
from typing import Any

import numpy as np
import pytest

from control_plane.domain.errors import InvalidField
from model_runtime.protocol import HEADER_LENGTH, InferRequest, decode_request, encode_response

FLAT: dict[str, object] = {"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}


def encode(*inputs: dict[str, object], **fields: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def as_bytes(array: Any, **overrides: object) -> tuple[dict[str, object], bytes]:
    """An input of the binary extension, and its bytes."""
    datatypes = {"f4": "FP32", "i8": "INT64", "u8": "UINT64"}
    entry = {
        "name": "x",
        "shape": list(array.shape),
        "datatype": datatypes[array.dtype.str[1:]],
        "parameters": {"binary_data_size": array.nbytes},
    }
    return {**entry, **overrides}, array.tobytes()


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_json_tensors_come_flat_or_nested(data: object) -> None:
    request = decode_request(encode({**FLAT, "data": data}), None)

    assert request.tensors["x"].dtype == np.int64
    assert request.tensors["x"].tolist() == [[1, 2], [3, 4]]


def test_json_carries_user_keys_of_64_bits_exactly() -> None:
    keys = [0, 1, 2**63, 2**64 - 1]

    request = decode_request(encode({"name": "x", "shape": [4], "datatype": "UINT64", "data": keys}), None)

    assert request.tensors["x"].tolist() == keys


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "<u8"])
def test_binary_tensors_arrive_as_they_left(dtype: str) -> None:
    sent = np.arange(6).reshape(3, 2).astype(dtype)
    entry, blob = as_bytes(sent)
    head = encode(entry)

    tensor = decode_request(head + blob, str(len(head))).tensors["x"]

    np.testing.assert_array_equal(tensor, sent)
    assert tensor.flags.aligned
    assert tensor.flags.writeable


def test_binary_tensors_follow_each_other_in_the_order_of_the_inputs() -> None:
    (first, first_blob), (second, second_blob) = as_bytes(np.arange(3)), as_bytes(np.ones((2, 1), np.float32), name="y")
    head = encode(first, second)

    request = decode_request(head + first_blob + second_blob, str(len(head)))

    assert request.tensors["x"].tolist() == [0, 1, 2]
    assert request.tensors["y"].tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({**FLAT, "datatype": "BYTES"}, "x.datatype"),
        ({**FLAT, "datatype": None}, "x.datatype"),
        ({**FLAT, "shape": [2, -2]}, "x.shape"),
        ({**FLAT, "shape": [2, True]}, "x.shape"),
        ({**FLAT, "shape": "2"}, "x.shape"),
        ({**FLAT, "shape": [2, 1, 2]}, "x.shape"),
        ({**FLAT, "shape": [2, 3]}, "x.data"),
        ({**FLAT, "shape": [2**30, 2**30]}, "x.data"),
        ({**FLAT, "data": [1, 2, 3, 4.5]}, "x.data"),
        ({**FLAT, "data": [1, 2, 3, "4"]}, "x.data"),
        ({**FLAT, "data": [1, 2, 3, None]}, "x.data"),
        ({**FLAT, "data": [True, True, False, False]}, "x.data"),
        ({**FLAT, "data": [[1, 2], [3]]}, "x.data"),
        ({**FLAT, "data": [1, 2, 3, 2**63]}, "x.data"),
        ({**FLAT, "data": [1, 2, 3, 2**70]}, "x.data"),
        ({**FLAT, "data": 7}, "x.data"),
        ({**FLAT, "datatype": "UINT64", "data": [1, 2, 3, -4]}, "x.data"),
        ({**FLAT, "name": ""}, "inputs[0].name"),
        ({**FLAT, "name": 5}, "inputs[0].name"),
        ({**FLAT, "parameters": []}, "x.parameters"),
        ({**FLAT, "parameters": {"binary_data_size": 32}}, "x.data"),
    ],
)
def test_a_malformed_input_is_named(entry: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        decode_request(encode(entry), None)

    assert caught.value.field == field


@pytest.mark.parametrize("size", [15, 17, -16, True, "16", 1e9, 2**62])
def test_a_binary_size_that_lies_is_named(size: object) -> None:
    entry, blob = as_bytes(np.arange(2), parameters={"binary_data_size": size})
    head = encode(entry)

    with pytest.raises(InvalidField, match=r"x\.binary_data_size"):
        decode_request(head + blob, str(len(head)))


@pytest.mark.parametrize(("more", "missing"), [(b"", 3), (b"more", 0)])
def test_a_body_with_other_bytes_than_its_inputs_name_is_refused(more: bytes, missing: int) -> None:
    entry, blob = as_bytes(np.arange(2))
    head = encode(entry)
    body = head + blob[: len(blob) - missing] + more

    with pytest.raises(InvalidField, match="bytes"):
        decode_request(body, str(len(head)))


@pytest.mark.parametrize("length", ["-1", "x", "", "1.5", "99999", "9" * 400, "²"])
def test_a_header_length_that_lies_is_named(length: str) -> None:
    with pytest.raises(InvalidField, match=HEADER_LENGTH):
        decode_request(encode(FLAT), length)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"inputs": 1}', b"{}", b'{"inputs": [1]}'),
        *(encode(FLAT, FLAT), encode(FLAT, parameters=3), encode(FLAT, id=7), encode(FLAT, outputs=[{"name": None}])),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField):
        decode_request(body, None)


def test_numbers_too_large_for_fp32_become_infinite_for_the_batch_check_to_refuse() -> None:
    request = decode_request(encode({"name": "x", "shape": [1], "datatype": "FP32", "data": [1e300]}), None)

    assert math.isinf(request.tensors["x"][0])


def answer(request: InferRequest, **outputs: Any) -> tuple[dict[str, Any], bytes]:
    encoded = encode_response(request, outputs, model_name="m", model_version="v", parameters={"generation": 3})
    end = len(encoded.body) if encoded.header_length is None else encoded.header_length
    return json.loads(encoded.body[:end]), encoded.body[end:]


def test_without_a_wish_every_output_comes_as_json() -> None:
    head, rest = answer(decode_request(encode(FLAT, id="7"), None), click=np.array([0.5], np.float32))

    assert head == {
        "model_name": "m",
        "model_version": "v",
        "id": "7",
        "parameters": {"generation": 3},
        "outputs": [{"name": "click", "shape": [1], "datatype": "FP32", "data": [0.5]}],
    }
    assert rest == b""


def test_outputs_come_in_the_order_and_form_that_was_asked_for() -> None:
    outputs = [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}]
    request = decode_request(encode(FLAT, outputs=outputs), None)

    head, rest = answer(request, a=np.array([1]), b=np.array([2, 3], np.uint64), c=np.array([4]))

    assert [(o["name"], o.get("data"), o.get("parameters")) for o in head["outputs"]] == [
        ("b", None, {"binary_data_size": 16}),
        ("a", [1], None),
    ]
    assert np.frombuffer(rest, "<u8").tolist() == [2, 3]


def test_binary_data_output_asks_for_all_as_bytes() -> None:
    request = decode_request(encode(FLAT, parameters={"binary_data_output": True}), None)

    head, rest = answer(request, a=np.array([1]), b=np.array([0.5], np.float32))

    assert [o["parameters"]["binary_data_size"] for o in head["outputs"]] == [8, 4]
    assert len(rest) == 12


def test_json_gets_null_where_there_is_no_score() -> None:
    head, _ = answer(decode_request(encode(FLAT), None), click=np.array([0.5, np.nan], np.float32))

    assert head["outputs"][0]["data"] == [0.5, None]


def test_an_unknown_output_is_refused_with_those_known() -> None:
    request = decode_request(encode(FLAT, outputs=[{"name": "revenue"}]), None)

    with pytest.raises(InvalidField, match="known: click"):
        answer(request, click=np.array([0.5], np.float32))
