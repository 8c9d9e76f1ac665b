"""Open Inference Protocol V2 on the wire: JSON, and tensors as bytes behind it (the binary tensor extension).

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_DIMENSIONS = 2
DTYPE_OF: dict[str, np.dtype[np.generic]] = {
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
}
DATATYPE_OF = {dtype: name for name, dtype in DTYPE_OF.items()}
NUMBERS_OF: dict[str, set[type]] = {"FP32": {int, float}, "INT64": {int}, "UINT64": {int}}  # a bool is no number

Tensor = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True, slots=True)
class InferRequest:
    """`wanted` maps the outputs asked for to whether they go out as bytes; empty asks for all of them."""

    request_id: str
    parameters: Mapping[str, object]
    tensors: Mapping[str, Tensor]
    wanted: Mapping[str, bool]
    is_binary: bool  # of outputs that are not named


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """`header_length` is None where all is JSON."""

    body: bytes
    header_length: int | None


def decode_request(body: bytes, header_length: str | None, *, max_json_bytes: int = 1 << 62) -> InferRequest:
    """Read a request; every tensor is a fresh array of its own.

    Raises:
        InvalidField: names the input, parameter or header that breaks the protocol.
    """
    head, blob = _cut(body, header_length)
    if len(head) > max_json_bytes:
        raise InvalidField(
            "body", f"may hold at most {max_json_bytes} bytes of JSON; send large tensors as binary data"
        )
    value = _object(head)
    parameters = _parameters("parameters", value)
    tensors: dict[str, Tensor] = {}
    offset = 0
    for index, entry in enumerate(_list(value, "inputs")):
        name, tensor, size = _read_input(index, entry, blob, offset)
        if name in tensors:
            raise InvalidField(name, "is given twice")
        tensors[name] = tensor
        offset += size
    if offset != len(blob):
        raise InvalidField("inputs", f"name {offset} bytes of binary data, {len(blob)} came")
    is_binary = _flag("parameters.binary_data_output", parameters.get("binary_data_output"), otherwise=False)
    return InferRequest(
        request_id=_text("id", value.get("id", "")),
        parameters=parameters,
        tensors=tensors,
        wanted=_wanted(value, is_binary=is_binary),
        is_binary=is_binary,
    )


def encode_response(
    request: InferRequest,
    outputs: Mapping[str, Tensor],
    *,
    model_name: str,
    model_version: str,
    parameters: Mapping[str, object],
) -> Encoded:
    """Write the outputs that were asked for, in the request's order. JSON has no NaN: it gets null.

    Raises:
        InvalidField: an output was asked for that there is not.
    """
    wanted = request.wanted or dict.fromkeys(outputs, request.is_binary)
    entries: list[dict[str, object]] = []
    blobs: list[bytes] = []
    for name, is_binary in wanted.items():
        if name not in outputs:
            raise InvalidField("outputs", f"{name!r} is not an output here; known: {', '.join(outputs)}")
        tensor = outputs[name]
        entry: dict[str, object] = {
            "name": name,
            "shape": list(tensor.shape),
            "datatype": DATATYPE_OF[tensor.dtype],
        }
        if is_binary:
            blobs.append(tensor.tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _json_numbers(tensor)
        entries.append(entry)
    head: dict[str, object] = {
        "model_name": model_name,
        "model_version": model_version,
        "parameters": dict(parameters),
        "outputs": entries,
    }
    if request.request_id:
        head["id"] = request.request_id
    content = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
    return Encoded(body=b"".join([content, *blobs]), header_length=len(content) if blobs else None)


def _cut(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[:0]
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 15:
        raise InvalidField(HEADER_LENGTH, f"must be a number of bytes, not {header_length[:40]!r}")
    if int(header_length) > len(body):
        raise InvalidField(HEADER_LENGTH, f"is {header_length}, the whole body has {len(body)} bytes")
    return view[: int(header_length)], view[int(header_length) :]


def _object(head: memoryview) -> dict[str, object]:
    try:
        value = json.loads(bytes(head))
    except (ValueError, RecursionError) as error:
        raise InvalidField("body", f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidField("body", "must be a JSON object")
    return value


def _read_input(index: int, entry: object, blob: memoryview, offset: int) -> tuple[str, Tensor, int]:
    """The name, the tensor, and how many bytes of the blob it took."""
    if not isinstance(entry, dict):
        raise InvalidField(f"inputs[{index}]", "must be an object")
    name = _text(f"inputs[{index}].name", entry.get("name"))
    if not name:
        raise InvalidField(f"inputs[{index}].name", "must not be empty")
    datatype = entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPE_OF:
        raise InvalidField(f"{name}.datatype", f"must be one of {', '.join(DTYPE_OF)}, not {datatype!r}")
    shape = _shape(name, entry.get("shape"))
    size = _parameters(f"{name}.parameters", entry).get("binary_data_size")
    if size is None:
        return name, _from_json(name, datatype, shape, entry.get("data")), 0
    if "data" in entry:
        raise InvalidField(f"{name}.data", "stands beside binary_data_size; only one of them may")
    expected = math.prod(shape) * DTYPE_OF[datatype].itemsize
    if isinstance(size, bool) or not isinstance(size, int) or size != expected:
        raise InvalidField(f"{name}.binary_data_size", f"must be {expected} for {datatype} {shape}, not {size!r}")
    if offset + size > len(blob):
        raise InvalidField(f"{name}.binary_data_size", f"is {size}, only {len(blob) - offset} bytes are left")
    flat = np.frombuffer(blob[offset : offset + size], DTYPE_OF[datatype])
    return name, flat.reshape(shape).copy(), size


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Tensor:
    if not isinstance(data, list):
        raise InvalidField(f"{name}.data", "must be a list")
    # As objects first: NumPy makes floats of a list in which small and very large 64-bit numbers meet.
    try:
        number_O = np.asarray(data, dtype=object)
        if not set(map(type, number_O.ravel())) <= NUMBERS_OF[datatype]:
            raise TypeError
        with np.errstate(over="ignore"):  # what becomes infinite is refused later, as not finite
            tensor: Tensor = number_O.astype(DTYPE_OF[datatype])
    except (ValueError, OverflowError, TypeError):
        raise InvalidField(f"{name}.data", f"must hold numbers of {datatype}, all rows equally long") from None
    if tensor.size != math.prod(shape):
        raise InvalidField(f"{name}.data", f"must hold {math.prod(shape)} numbers for {shape}, not {tensor.size}")
    return tensor.reshape(shape)


def _shape(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        raise InvalidField(f"{name}.shape", f"must be a list of at most {MAX_DIMENSIONS} sizes")
    for size in value:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 31:
            raise InvalidField(f"{name}.shape", f"must hold sizes of 0 or more, not {size!r}")
    return tuple(value)


def _wanted(value: Mapping[str, object], *, is_binary: bool) -> dict[str, bool]:
    wanted: dict[str, bool] = {}
    for index, entry in enumerate(_list(value, "outputs") if "outputs" in value else []):
        if not isinstance(entry, dict):
            raise InvalidField(f"outputs[{index}]", "must be an object")
        name = _text(f"outputs[{index}].name", entry.get("name"))
        asked = _parameters(f"outputs[{index}].parameters", entry).get("binary_data")
        wanted[name] = _flag(f"outputs[{index}].parameters.binary_data", asked, otherwise=is_binary)
    return wanted


def _parameters(field: str, entry: Mapping[str, object]) -> Mapping[str, object]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidField(field, "must be an object")
    return parameters


def _list(value: Mapping[str, object], field: str) -> list[object]:
    found = value.get(field)
    if not isinstance(found, list):
        raise InvalidField(field, "must be a list")
    return found


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 1_000:
        raise InvalidField(field, "must be a string of at most 1000 characters")
    return value


def _flag(field: str, value: object, *, otherwise: bool) -> bool:
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        raise InvalidField(field, f"must be true or false, not {value!r}")
    return value


def _json_numbers(tensor: Tensor) -> list[object]:
    flat = tensor.ravel()
    if flat.dtype.kind != "f":
        return list(flat.tolist())
    return [number if math.isfinite(number) else None for number in flat.tolist()]
