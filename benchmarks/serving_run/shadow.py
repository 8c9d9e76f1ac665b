"""What a shadow costs those who wait for answers: an unrelated candidate at full sampling, under open-loop load."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks.serving_run.feed import Feed
from benchmarks.serving_run.load import Result
from benchmarks.serving_run.model import SURFACE, Exported
from benchmarks.serving_run.rounds import Bench, Load
from benchmarks.serving_run.servers import Surefoot
from control_plane.domain.split import FULL_TRAFFIC_BP, Split

SHARE_OF_SUSTAINED = 0.4
SUSTAINED = Load(name="sustained", rows=500, connections=8)
SETTLE_SECONDS = 60.0
FLUSH_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shadowed:
    """`uncounted` is how many requests that were to be shadowed were neither scored nor counted as dropped."""

    rate_per_s: float
    alone: Sequence[Result]
    beside: Sequence[Result]  # the same load, with the shadow
    scored: int
    dropped: int
    uncounted: int

    @property
    def p99_ratios(self) -> list[float]:
        return [p99_ms(beside) / p99_ms(alone) for alone, beside in zip(self.alone, self.beside, strict=True)]

    @property
    def failed(self) -> int:
        return sum(each.failed for each in (*self.alone, *self.beside))


class ShadowRounds:
    """With the shadow and without it in turn, on one server that is told by its feed."""

    def __init__(self, bench: Bench, server: Surefoot, feed: Feed, *, stable: Exported, candidate: Exported) -> None:
        assert server.is_shown, "only what was shown is shadowed"
        self._bench = bench
        self._server = server
        self._feed = feed
        self._uris = {each.version_id: str(each.folder) for each in (stable, candidate)}
        self._stable, self._candidate = stable, candidate
        self._generation = 1
        self._url = f"http://127.0.0.1:{server.port}"

    def run(self, *, rounds: int, seconds: float) -> Shadowed:
        self._switch(has_shadow=True)  # both versions are in memory from here on
        self._switch(has_shadow=False)
        found = self._bench.send(self._server, SUSTAINED, seconds=seconds)
        rate_per_s = SHARE_OF_SUSTAINED * found.answered / found.seconds
        alone: list[Result] = []
        beside: list[Result] = []
        scored, dropped, asked = self._scored(), self._dropped(), 0
        for number in range(rounds):
            for has_shadow in (False, True) if number % 2 == 0 else (True, False):
                self._switch(has_shadow=has_shadow)
                result = self._bench.send(self._server, SUSTAINED, seconds=seconds, rate_per_s=rate_per_s)
                (beside if has_shadow else alone).append(result)
                asked += has_shadow * result.answered
        self._flush()
        scored, dropped = self._scored() - scored, self._dropped() - dropped
        return Shadowed(
            rate_per_s=rate_per_s,
            alone=alone,
            beside=beside,
            scored=scored,
            dropped=dropped,
            uncounted=asked - scored - dropped,
        )

    def _switch(self, *, has_shadow: bool) -> None:
        """Order it, finish what the last round left, and wait until answers come by the new split."""
        self._generation += 1
        split = Split(
            surface=SURFACE,
            generation=self._generation,
            salt="benchmark",
            stable=self._stable.version_id,
            shadow=self._candidate.version_id if has_shadow else None,
            shadow_sample_bp=FULL_TRAFFIC_BP if has_shadow else 0,
        )
        self._feed.serve(split, self._uris)
        deadline = time.monotonic() + SETTLE_SECONDS
        while not (self._answers_by(self._generation) and (not has_shadow or self._has_candidate())):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the runtime did not come to generation {self._generation}")
            time.sleep(0.05)
        self._flush()

    def _answers_by(self, generation: int) -> bool:
        return f'surefoot_runtime_generation{{surface="{SURFACE}"}} {generation}.0' in self._metrics()

    def _has_candidate(self) -> bool:
        path = f"/v2/models/{SURFACE}/versions/{self._candidate.version_id}/ready"
        return httpx.get(self._url + path).is_success

    def _flush(self) -> None:
        httpx.post(f"{self._url}/v1/flush", timeout=FLUSH_SECONDS).raise_for_status()

    def _scored(self) -> int:
        """Users whom the candidate was asked to score for; each request has one."""
        return self._count(rf'surefoot_runtime_requests_total{{version="{self._candidate.version_id}"}}')

    def _dropped(self) -> int:
        return self._count("surefoot_runtime_shadow_dropped_total")

    def _count(self, sample: str) -> int:
        found = re.search(re.escape(sample) + r" ([0-9.e+]+)$", self._metrics(), re.MULTILINE)
        return round(float(found[1])) if found else 0

    def _metrics(self) -> str:
        return httpx.get(f"{self._url}/metrics").text


def p99_ms(result: Result) -> float:
    return float(np.quantile(result.latencies_ms, 0.99))
