import shutil
from pathlib import Path

import pytest

from tests.api.deployment import Deployment, write_artifact


def test_a_registered_version_can_be_read_and_listed(deployment: Deployment) -> None:
    deployment.create_surface()

    version_id = deployment.register("candidate")

    version = deployment.client.get(f"/v1/versions/{version_id}").json()
    listed = deployment.client.get("/v1/versions", params={"surface": "home_feed"}).json()["versions"]
    assert version["registered_by"] == "ada"
    assert version["parts"].keys() == {"trunk", "surface_export", "calibrator", "feature_signature"}
    assert listed == [version]


def test_registering_the_same_bytes_again_gives_the_same_version(deployment: Deployment) -> None:
    deployment.create_surface()
    first = deployment.register("candidate")
    folder = deployment.artifacts / "home_feed" / "candidate"

    again = deployment.client.post("/v1/versions", json={"artifact_uri": str(folder)})

    assert again.json()["version_id"] == first


@pytest.mark.parametrize(
    ("content", "condition"),
    [
        (b"\x80\x04pickled", "unsafe-artifact"),
        (b"", "unsafe-artifact"),
        (None, "digest-mismatch"),
    ],
)
def test_an_artifact_that_is_not_what_it_says_is_refused(
    deployment: Deployment, tmp_path: Path, content: bytes | None, condition: str
) -> None:
    deployment.create_surface()
    folder = write_artifact(tmp_path / "broken", "broken")
    trunk = folder / "trunk.safetensors"
    trunk.write_bytes(trunk.read_bytes()[:-1] + b"\x01" if content is None else content)

    answer = deployment.client.post("/v1/versions", json={"artifact_uri": str(folder)})

    assert answer.status_code == 422
    assert answer.json()["type"] == f"urn:surefoot:{condition}"
    assert deployment.client.get("/v1/versions").json() == {"versions": []}


def test_a_folder_without_a_manifest_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    answer = deployment.client.post("/v1/versions", json={"artifact_uri": str(tmp_path)})

    assert (answer.status_code, answer.json()["field"]) == (422, "manifest")


def test_a_version_of_an_unknown_surface_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", "candidate", surface="search")

    answer = deployment.client.post("/v1/versions", json={"artifact_uri": str(folder)})

    assert answer.status_code == 404


def test_an_unknown_version_is_not_found(deployment: Deployment) -> None:
    assert deployment.client.get(f"/v1/versions/{'0' * 16}").status_code == 404


@pytest.mark.parametrize("uri", ["artifacts/a", "../a", "file:///models/a", "https://models/a"])
def test_an_artifact_that_runtimes_could_not_find_is_refused(deployment: Deployment, uri: str) -> None:
    answer = deployment.client.post("/v1/versions", json={"artifact_uri": uri})

    assert (answer.status_code, answer.json()["field"]) == (422, "artifact_uri")


@pytest.mark.parametrize("name", ["manifest.json", "trunk.safetensors"])
def test_a_file_whose_json_nests_without_end_is_refused(deployment: Deployment, tmp_path: Path, name: str) -> None:
    deployment.create_surface()
    folder = write_artifact(tmp_path / "deep", "deep")
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    (folder / name).write_bytes(deep if name == "manifest.json" else len(deep).to_bytes(8, "little") + deep)

    answer = deployment.client.post("/v1/versions", json={"artifact_uri": str(folder)})

    assert answer.status_code == 422


def test_a_version_tells_who_registered_it_and_who_moved_it(deployment: Deployment) -> None:
    deployment.create_surface()
    version_id = deployment.register("b")
    moved = deployment.artifacts / "moved"
    shutil.copytree(deployment.artifacts / "home_feed" / "b", moved)
    deployment.client.post("/v1/versions", json={"artifact_uri": str(moved)})

    history = deployment.client.get(f"/v1/versions/{version_id}/history").json()["history"]

    assert [(entry["seq"], entry["command"]) for entry in history] == [(0, "register"), (1, "move")]
    assert history[1]["artifact_uri"] == str(moved)
    assert history[1]["previous_hash"] == history[0]["hash"]
    assert deployment.client.get("/v1/versions/0123456789abcdef/history").status_code == 404
