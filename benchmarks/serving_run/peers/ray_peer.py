"""What a user of Ray Serve would write: a deployment by its guide, batched by its decorator."""

# mypy: allow-untyped-decorators

import argparse
import signal
import tempfile
from collections.abc import Mapping

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.serving_run.wire import Array, load, pack_scores, scores_of_rows, unpack

MAX_ONGOING = 100  # of a replica: its guide raises it from 5 where callers are many
Tensors = Mapping[str, Array]


class Rows:
    """Rows as lists of numbers; the decorator joins requests along the rows."""

    def __init__(self, artifact: str, max_batch_size: int, batch_seconds: float) -> None:
        self._version = load(artifact)
        self._score.set_max_batch_size(max_batch_size)
        self._score.set_batch_wait_timeout_s(batch_seconds)

    async def __call__(self, request: Request) -> dict[str, object]:
        sent = await request.json()
        scores = await self._score({name: np.asarray(rows) for name, rows in sent.items()})
        return {"scores": scores}

    @serve.batch
    async def _score(self, requests: list[Tensors]) -> list[object]:
        ends = np.cumsum([len(rows["view_type_N"]) for rows in requests])
        rows = {name: np.concatenate([each[name] for each in requests]) for name in requests[0]}
        return [each.tolist() for each in np.split(scores_of_rows(self._version, rows), ends[:-1], axis=1)]


class Broadcast:
    """The whole request as its raw body; scores go out the same way."""

    def __init__(self, artifact: str) -> None:
        self._version = load(artifact)

    async def __call__(self, request: Request) -> Response:
        scores = self._version.score(unpack(await request.body()))
        return Response(pack_scores(scores), media_type="application/octet-stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--is-broadcast", action="store_true")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--max-batch-size", type=int, default=1)
    parser.add_argument("--batch-seconds", type=float, default=0.0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A path of its own, and a short one: it becomes part of the names of sockets.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(num_cpus=given.workers, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        serve.start(http_options={"host": "127.0.0.1", "port": given.port})
        deployment = serve.deployment(num_replicas=given.workers, max_ongoing_requests=MAX_ONGOING)
        serve.run(
            deployment(Broadcast).bind(given.artifact)
            if given.is_broadcast
            else deployment(Rows).bind(given.artifact, given.max_batch_size, given.batch_seconds)
        )
        try:
            signal.pause()
        except KeyboardInterrupt:
            ray.shutdown()


if __name__ == "__main__":
    main()
