"""What a user of LitServe would write: an API by its guide, with its own batching and its fast queue."""

# mypy: allow-subclassing-any

import argparse
import base64
from collections.abc import Mapping, Sequence

import litserve
import numpy as np

from benchmarks.serving_run.wire import Array, load, pack_scores, scores_of_rows, unpack
from model_runtime.networks.features import FloatArray, RowBatch

Rows = dict[str, Array]


class RowsApi(litserve.LitAPI):
    """Rows as lists of numbers; `batch` and `unbatch` join requests along the rows."""

    def __init__(self, artifact: str, *, max_batch_size: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self._artifact = artifact

    def setup(self, device: str) -> None:
        self._version = load(self._artifact)

    def decode_request(self, request: Mapping[str, object]) -> Rows:
        return {name: np.asarray(rows) for name, rows in request.items()}

    def batch(self, inputs: Sequence[Rows]) -> tuple[Rows, list[int]]:
        ends = np.cumsum([len(rows["view_type_N"]) for rows in inputs])
        return {name: np.concatenate([rows[name] for rows in inputs]) for name in inputs[0]}, ends[:-1].tolist()

    def predict(self, x: Rows | tuple[Rows, list[int]]) -> FloatArray | list[FloatArray]:
        if isinstance(x, dict):
            return scores_of_rows(self._version, x)
        rows, ends = x
        return np.split(scores_of_rows(self._version, rows), ends, axis=1)

    def unbatch(self, output: list[FloatArray]) -> list[FloatArray]:
        return output

    def encode_response(self, output: FloatArray) -> dict[str, object]:
        return {"scores": output.tolist()}


class BroadcastApi(litserve.LitAPI):
    """The whole request as bytes in base64, as its guides send images; scores go out the same way."""

    def __init__(self, artifact: str) -> None:
        super().__init__()
        self._artifact = artifact

    def setup(self, device: str) -> None:
        self._version = load(self._artifact)

    def decode_request(self, request: Mapping[str, str]) -> RowBatch:
        return unpack(base64.b64decode(request["batch"]))

    def predict(self, x: RowBatch) -> Mapping[str, FloatArray]:
        return self._version.score(x)

    def encode_response(self, output: Mapping[str, FloatArray]) -> dict[str, str]:
        return {"scores": base64.b64encode(pack_scores(output)).decode()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--is-broadcast", action="store_true")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--max-batch-size", type=int, default=1)
    parser.add_argument("--batch-seconds", type=float, default=0.0)
    given = parser.parse_args()
    api = (
        BroadcastApi(given.artifact)
        if given.is_broadcast
        else RowsApi(given.artifact, max_batch_size=given.max_batch_size, batch_timeout=given.batch_seconds)
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers, fast_queue=True, timeout=600)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
