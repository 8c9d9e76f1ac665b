import json
import os
import pickle
from pathlib import Path

import pytest

from control_plane.domain.errors import DigestMismatch, InvalidManifest, UnsafeArtifact
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, MANIFEST_FILE, Manifest
from control_plane.domain.model_version import ModelVersion, Part, digest_of
from control_plane.registry.artifacts import verify_artifact
from tests.builders import HOME_FEED, a_manifest

TRUNK_FILE = FILE_OF[Part.TRUNK]


def safetensors(content: bytes) -> bytes:
    header = json.dumps({"weight": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}})
    return len(header).to_bytes(8, "little") + header.encode() + content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole artifact."""
    digests = {}
    for name in (*FILE_OF.values(), GOLDEN_FILE):
        content = safetensors(name.encode())
        (tmp_path / name).write_bytes(content)
        digests[name] = digest_of(content)
    version = ModelVersion(
        surface=HOME_FEED,
        feature_signature=digest_of(b"signature"),
        **{part.value: digests[name] for part, name in FILE_OF.items()},
    )
    (tmp_path / MANIFEST_FILE).write_text(a_manifest(version, golden=digests[GOLDEN_FILE]).to_json())
    return tmp_path


def test_a_whole_artifact_gives_its_manifest(folder: Path) -> None:
    assert verify_artifact(folder) == Manifest.from_json((folder / MANIFEST_FILE).read_bytes())


@pytest.mark.parametrize("name", [*FILE_OF.values(), GOLDEN_FILE])
def test_other_bytes_than_promised_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(safetensors(b"other"))

    with pytest.raises(DigestMismatch, match=name):
        verify_artifact(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    content = (folder / TRUNK_FILE).read_bytes()
    (folder / TRUNK_FILE).write_bytes(content[:-1])

    with pytest.raises(UnsafeArtifact, match="promises"):
        verify_artifact(folder)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xff" * 64, pickle.dumps([1, 2, 3]), b"PK\x03\x04" + b"\x00" * 40])
def test_what_is_not_safetensors_is_refused(folder: Path, content: bytes) -> None:
    (folder / TRUNK_FILE).write_bytes(content)

    with pytest.raises(UnsafeArtifact, match=TRUNK_FILE):
        verify_artifact(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / TRUNK_FILE).unlink()

    with pytest.raises(UnsafeArtifact, match="is missing"):
        verify_artifact(folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="cannot be read: No such file"):
        verify_artifact(tmp_path / "nowhere")


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_bytes(b"\xff\xfe")

    with pytest.raises(InvalidManifest, match="not JSON"):
        verify_artifact(folder)


def test_a_manifest_that_never_ends_is_refused(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()
    (folder / MANIFEST_FILE).symlink_to("/dev/zero")

    with pytest.raises(InvalidManifest, match="is not a file"):
        verify_artifact(folder)


def test_a_pipe_in_place_of_a_manifest_is_refused_without_waiting_for_a_writer(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()
    os.mkfifo(folder / MANIFEST_FILE)

    with pytest.raises(InvalidManifest, match="is not a file"):
        verify_artifact(folder)
