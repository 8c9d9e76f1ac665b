"""Is an artifact's folder what its manifest says? Nothing in it is loaded or run to find out."""

import hashlib
import stat
from pathlib import Path

from control_plane.domain.errors import DigestMismatch, InvalidManifest, UnsafeArtifact
from control_plane.domain.manifest import (
    FILE_OF,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MAX_HEADER_BYTES,
    Manifest,
    check_safetensors,
)

BLOCK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 10_000_000  # a manifest is a page of JSON; something far larger is something else


def verify_artifact(path: Path) -> Manifest:
    """Check every file of an artifact against its manifest, and return the manifest.

    Raises:
        InvalidManifest: there is none, or it names no loadable model.
        UnsafeArtifact: a file is missing, truncated, pickled, or not plain tensors.
        DigestMismatch: a file's bytes are not those that the manifest promises.
    """
    manifest = _manifest(path / MANIFEST_FILE)
    for name in (*FILE_OF.values(), GOLDEN_FILE):
        _verify_file(path / name, expected=manifest.digest_of_file(name))
    return manifest


def _manifest(path: Path) -> Manifest:
    try:
        return Manifest.from_json(_manifest_bytes(path))
    except InvalidManifest as error:
        if str(path) in error.rule:
            raise
        raise InvalidManifest(error.field, f"{error.rule} (in {path})") from error


def _manifest_bytes(path: Path) -> bytes:
    """A pipe or a device may be named like a file, and would be read without end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidManifest("manifest", f"{path} is not a file")
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InvalidManifest("manifest", f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidManifest("manifest", f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
    return content


def _verify_file(path: Path, *, expected: str) -> None:
    if not path.is_file():
        raise UnsafeArtifact(str(path), "is missing")
    try:
        with path.open("rb") as file:
            total_bytes = path.stat().st_size
            head = file.read(8)
            head += file.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
            check_safetensors(str(path), head, total_bytes)
            file.seek(0)
            sha256 = hashlib.sha256()
            while block := file.read(BLOCK_BYTES):
                sha256.update(block)
    except OSError as error:
        raise UnsafeArtifact(str(path), f"cannot be read: {error.strerror}") from error
    found = f"sha256:{sha256.hexdigest()}"
    if found != expected:
        raise DigestMismatch(str(path), expected=expected, found=found)
