"""A running control plane for tests: artifacts on disk, and the requests that most stories begin with."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import Client, Response

from control_plane.api.deps import Parts
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, MANIFEST_FILE, Manifest
from control_plane.domain.model_version import ModelVersion, Part, Surface, ViewType, digest_of
from tests.builders import NOON, a_plan_mapping

VIEW_TYPES = ["grid", "closeup"]
BOTH_DATABASES = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@dataclass
class MovedClock:
    now: datetime = NOON

    def read(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass(kw_only=True)
class Deployment:
    client: Client
    app: FastAPI
    clock: MovedClock
    artifacts: Path
    versions: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def starting_clock() -> MovedClock:
        return MovedClock()

    @property
    def parts(self) -> Parts:
        parts: Parts = self.app.state.parts
        return parts

    def create_surface(self, surface: str = "home_feed") -> None:
        answer = self.client.post("/v1/surfaces", json={"surface": surface, "view_types": VIEW_TYPES})
        assert answer.status_code == 201, answer.text

    def register(self, name: str, *, surface: str = "home_feed", trunk: str = "") -> str:
        folder = write_artifact(self.artifacts / surface / name, name, surface=surface, trunk=trunk or name)
        answer = self.client.post("/v1/versions", json={"artifact_uri": str(folder)})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["version_id"])

    def open_surface(self, surface: str = "home_feed") -> str:
        """A surface that serves a stable version, whose id is returned."""
        self.create_surface(surface)
        stable = self.register("stable", surface=surface)
        body = {"version_id": stable, "reason": "first model", "seen_generation": 0}
        answer = self.client.put(f"/v1/surfaces/{surface}/stable", json=body)
        assert answer.status_code == 200, answer.text
        return stable

    def create_rollout(self, surface: str = "home_feed", **plan: Any) -> dict[str, Any]:
        """A pending rollout on a surface that was opened for it."""
        self.open_surface(surface)
        answer = self.ask_for_rollout(self.register("candidate", surface=surface), surface, **plan)
        assert answer.status_code == 201, answer.text
        rollout: dict[str, Any] = answer.json()
        return rollout

    def ask_for_rollout(self, candidate: str, surface: str = "home_feed", **plan: Any) -> Response:
        body = {"surface": surface, "candidate": candidate, "plan": a_plan_mapping(**plan)}
        return self.client.post("/v1/rollouts", json=body)

    def command(self, rollout_id: int, command: str, **body: Any) -> Response:
        return self.client.post(f"/v1/rollouts/{rollout_id}/commands", json={"command": command, **body})

    def ramp(self, rollout_id: int) -> dict[str, Any]:
        """To the first step, past its gates."""
        for command in ("start", "skip", "skip"):
            answer = self.command(rollout_id, command, reason="a test")
            assert answer.status_code == 200, answer.text
        rollout: dict[str, Any] = answer.json()
        return rollout

    def heartbeat(self, runtime_id: str = "runtime-1", **fields: Any) -> Response:
        return self.client.post(f"/v1/runtimes/{runtime_id}/heartbeat", json=fields)


def write_artifact(folder: Path, name: str, *, surface: str = "home_feed", trunk: str = "trunk") -> Path:
    """An artifact folder whose every digest is true; its tensors are one byte each, told apart by a comment."""
    folder.mkdir(parents=True)
    contents = {part: a_safetensors_file(f"{surface}/{name}/{part}") for part in FILE_OF}
    contents[Part.TRUNK] = a_safetensors_file(trunk)
    for part, content in contents.items():
        (folder / FILE_OF[part]).write_bytes(content)
    golden = a_safetensors_file("golden")
    (folder / GOLDEN_FILE).write_bytes(golden)
    version = ModelVersion(
        surface=Surface(surface),
        trunk=digest_of(contents[Part.TRUNK]),
        surface_export=digest_of(contents[Part.SURFACE_EXPORT]),
        calibrator=digest_of(contents[Part.CALIBRATOR]),
        feature_signature=digest_of(b"signature"),
    )
    manifest = Manifest(
        version=version,
        model_name="unified",
        view_types=tuple(ViewType(view_type) for view_type in VIEW_TYPES),
        golden=digest_of(golden),
        golden_tolerance=1e-5,
        training_run=name,
        config={},
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


def a_safetensors_file(comment: str) -> bytes:
    entries = {"__metadata__": {"comment": comment}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + b"\x00"
