"""Asks the scoring runtime over HTTP by the Open Inference Protocol V2, with binary tensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray

from control_plane.demo.contexts import FloatArray, IntArray, KeyArray
from control_plane.demo.traffic import Requests
from control_plane.domain.errors import ControlPlaneError

HEADER_LENGTH = "Inference-Header-Content-Length"
DTYPE_OF: dict[str, np.dtype[np.generic]] = {
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
}
DATATYPE_OF = {dtype: name for name, dtype in DTYPE_OF.items()}
OUTPUTS = ("click", "arm", "shown_row", "impression_id")
SECONDS = 60.0  # one batch of some thousand users on a busy machine


class ScoringFailed(ControlPlaneError):
    """The runtime refused a request or could not answer it."""

    def __init__(self, status_code: int, answer: str) -> None:
        self.status_code = status_code
        super().__init__(f"the scoring runtime answered {status_code}: {answer}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What the runtime showed: U requests, N rows."""

    click_N: FloatArray
    arm_U: IntArray
    shown_row_U: IntArray
    impression_id_U: KeyArray


class ScoringClient:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=SECONDS)

    def close(self) -> None:
        self._http.close()

    def show(self, requests: Requests) -> Shown:
        """Score a batch, let the runtime pick each user's best row, and have it log the exposures."""
        head, body = encode_request(requests)
        answer = self._http.post(
            f"/v2/models/{requests.surface}/infer",
            content=head + body,
            headers={HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"},
        )
        if answer.status_code != httpx.codes.OK:
            raise ScoringFailed(answer.status_code, answer.text[:500])
        outputs = decode_answer(answer.content, answer.headers.get(HEADER_LENGTH))
        return Shown(
            click_N=outputs["click"].astype(np.float32),
            arm_U=outputs["arm"].astype(np.int64),
            shown_row_U=outputs["shown_row"].astype(np.int64),
            impression_id_U=outputs["impression_id"].astype(np.uint64),
        )

    def flush(self) -> None:
        """Return once all that was shown is in the event log and every shadow score is done."""
        answer = self._http.post("/v1/flush")
        if answer.is_error:
            raise ScoringFailed(answer.status_code, answer.text[:500])


def encode_request(requests: Requests) -> tuple[bytes, bytes]:
    """The JSON head and the tensors after it, in order."""
    tensors: dict[str, NDArray[np.generic]] = {
        "user_key": requests.user_key_U,
        "user_categorical_UC": requests.user_categorical_UC,
        "user_dense_UD": requests.user_dense_UD,
        "history_UL": requests.history_UL,
        "user_index_N": requests.user_index_N,
        "view_type_N": requests.view_type_N,
        "candidate_categorical_NC": requests.candidate_categorical_NC,
        "candidate_dense_ND": requests.candidate_dense_ND,
    }
    raw = {name: np.ascontiguousarray(tensor).tobytes() for name, tensor in tensors.items()}
    head = {
        "parameters": {"show": 1, "served_at_ms": requests.served_at_ms},
        "inputs": [
            {
                "name": name,
                "shape": list(tensor.shape),
                "datatype": DATATYPE_OF[tensor.dtype],
                "parameters": {"binary_data_size": len(raw[name])},
            }
            for name, tensor in tensors.items()
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS],
    }
    return json.dumps(head).encode(), b"".join(raw.values())


def decode_answer(content: bytes, head_length: str | None) -> Mapping[str, NDArray[np.generic]]:
    """Outputs by name, whether they came as binary tensors or as JSON numbers."""
    end = len(content) if head_length is None else int(head_length)
    outputs: dict[str, NDArray[np.generic]] = {}
    for output in json.loads(content[:end])["outputs"]:
        dtype = DTYPE_OF[output["datatype"]]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(output["data"], dtype)
        else:
            array = np.frombuffer(content, dtype, count=size // dtype.itemsize, offset=end)
            end += size
        outputs[output["name"]] = array.reshape(output["shape"])
    return outputs
