import json
from pathlib import Path

from control_plane.domain.manifest import FILE_OF, FITTED_ON, MANIFEST_FILE
from control_plane.domain.model_version import Part, digest_of
from tests.api.deployment import BOTH_DATABASES, Deployment, a_safetensors_file, write_artifact

pytestmark = BOTH_DATABASES


def recalibrated(folder: Path, *, fitted_on: dict[str, str] | None = None) -> Path:
    """The stable version's artifact with another calibrator, which says what it was fitted on."""
    write_artifact(folder, "stable", trunk="stable")
    calibrator = a_safetensors_file("fitted anew")
    (folder / FILE_OF[Part.CALIBRATOR]).write_bytes(calibrator)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["digests"]["calibrator"] = digest_of(calibrator)
    own = {part: manifest["digests"][part] for part in ("trunk", "surface_export")}
    manifest[FITTED_ON] = {**own, **(fitted_on or {})}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def test_a_calibrator_fitted_on_other_weights_is_refused_with_both_digests(deployment: Deployment) -> None:
    deployment.open_surface()
    folder = recalibrated(deployment.artifacts / "mixed", fitted_on={"trunk": digest_of(b"another run")})

    answer = deployment.client.post("/v1/versions", json={"artifact_uri": str(folder)})

    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:surefoot:calibrator-mismatch")
    assert (problem["part"], problem["fitted_on"]) == ("trunk", digest_of(b"another run"))
    assert problem["found"] == digest_of(a_safetensors_file("stable"))


def test_a_rollout_of_a_calibrator_alone_says_so(deployment: Deployment) -> None:
    stable = deployment.open_surface()
    folder = recalibrated(deployment.artifacts / "recalibrated")
    answer = deployment.client.post("/v1/versions", json={"artifact_uri": str(folder)})
    assert answer.status_code == 201, answer.text

    rollout = deployment.ask_for_rollout(answer.json()["version_id"]).json()

    assert (rollout["stable"], rollout["changed_parts"]) == (stable, ["calibrator"])
    listed = deployment.client.get("/v1/rollouts").json()["rollouts"]
    assert [line["changed_parts"] for line in listed] == [["calibrator"]]


def test_another_checkpoints_rollout_tells_all_that_changes(deployment: Deployment) -> None:
    rollout = deployment.create_rollout()

    assert rollout["changed_parts"] == ["trunk", "surface_export", "calibrator"]
