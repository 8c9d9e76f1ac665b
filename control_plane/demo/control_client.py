"""What the demo asks of the control plane, over HTTP like any other client."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from control_plane.domain.errors import ControlPlaneError

OPERATOR = "demo"
SECONDS = 60.0
POLL_SECONDS = 0.03
TICK_SECONDS = 60.0  # longer without a tick means that the scheduler stands still

Json = dict[str, Any]


class Refused(ControlPlaneError):
    """The control plane answered with a problem."""

    def __init__(self, what: str, status_code: int, answer: str) -> None:
        self.status_code = status_code
        super().__init__(f"{what}: the control plane answered {status_code}: {answer}")


class ControlClient:
    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=SECONDS, headers={"X-Surefoot-Operator": OPERATOR})

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: object) -> Any:
        return self._answer("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        return self._answer("POST", path, json=body)

    def put(self, path: str, body: Mapping[str, object]) -> Any:
        return self._answer("PUT", path, json=body)

    def post_events(self, kind: str, arrow_stream: bytes) -> Json:
        receipt: Json = self._answer(
            "POST",
            "/v1/events",
            params={"kind": kind},
            content=arrow_stream,
            headers={"Content-Type": "application/vnd.apache.arrow.stream"},
        )
        if receipt["refused"]:
            raise Refused("events", httpx.codes.OK, f"{receipt['refused']} rows refused: {receipt['first_refused']}")
        return receipt

    def surface(self, surface: str) -> Json:
        found: Json = self.get(f"/v1/surfaces/{surface}")
        return found

    def rollout(self, rollout_id: int) -> Json:
        found: Json = self.get(f"/v1/rollouts/{rollout_id}")
        return found

    def register(self, artifact_uri: str) -> str:
        return str(self.post("/v1/versions", {"artifact_uri": artifact_uri})["version_id"])

    def adopt(self, surface: str, version_id: str, reason: str) -> None:
        """Set the stable version by hand."""
        seen = self.surface(surface)["generation"]
        body = {"version_id": version_id, "reason": reason, "seen_generation": seen}
        self.put(f"/v1/surfaces/{surface}/stable", body)

    def create_release(
        self, candidates: Mapping[str, str], plan_yaml: str, edges: Sequence[Mapping[str, object]] = ()
    ) -> dict[str, int]:
        """Returns the rollout of each surface."""
        body = {"candidates": dict(candidates), "plan_yaml": plan_yaml, "edges": list(edges)}
        release = self.post("/v1/releases", body)
        return {rollout["surface"]: int(rollout["rollout_id"]) for rollout in release["rollouts"]}

    def command(self, rollout_id: int, command: str, reason: str) -> Json:
        seen = self.surface(self.rollout(rollout_id)["surface"])["generation"]
        body = {"command": command, "seen_generation": seen, "reason": reason}
        rollout: Json = self.post(f"/v1/rollouts/{rollout_id}/commands", body)
        return rollout

    def wait_for_tick(self, now_ms: int) -> None:
        """Return once the scheduler has looked at everything that was due at `now_ms` of event time."""
        deadline = time.monotonic() + TICK_SECONDS
        while time.monotonic() < deadline:
            ticked_at = self.get("/v1/health").get("last_tick_at")
            if ticked_at is not None and milliseconds(ticked_at) >= now_ms:
                return
            time.sleep(POLL_SECONDS)
        raise Refused("waiting for a tick", httpx.codes.OK, f"none within {TICK_SECONDS:.0f} s; see its log")

    def _answer(self, method: str, path: str, **request: Any) -> Any:
        answer = self._http.request(method, path, **request)
        if answer.is_error:
            raise Refused(f"{method} {path}", answer.status_code, answer.text[:2_000])
        return answer.json()


def milliseconds(moment: str | float) -> int:
    """An ISO 8601 time, or milliseconds since the epoch."""
    if isinstance(moment, str):
        return round(datetime.fromisoformat(moment).timestamp() * 1_000)
    return round(moment)
