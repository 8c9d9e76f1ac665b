"""Files stored once by content: exports that share a part share its bytes, and each folder still stands alone.

A store is a folder of files named by their digest, and an export's file is a hard link of one. Where links cannot be
had, the export gets a copy: nothing but the space differs.
"""

import os
import tempfile
from pathlib import Path

from control_plane.domain.model_version import digest_of


def place(content: bytes, path: Path, store: Path) -> None:
    """Write `path`, as a link to the store's file of the same content where there can be one."""
    blob = store / digest_of(content).replace(":", "-")
    if _holds(blob, content) and _linked(blob, path):
        return
    path.write_bytes(content)
    _keep(path, blob)


def drop_unused(store: Path) -> None:
    """Remove the files of a store that no export shares any more."""
    for blob in store.glob("sha256-*"):
        if blob.stat().st_nlink == 1:
            blob.unlink(missing_ok=True)


def _holds(blob: Path, content: bytes) -> bool:
    """Read, not believed: a file that was changed in place must not spread."""
    try:
        return blob.read_bytes() == content
    except OSError:
        return False


def _linked(blob: Path, path: Path) -> bool:
    try:
        os.link(blob, path)
    except OSError:  # another file system, or one without links
        return False
    return True


def _keep(path: Path, blob: Path) -> None:
    """Link a file into the store, in one step that also replaces one whose content is not its name's."""
    blob.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=blob.parent) as staging:
        if _linked(path, Path(staging) / blob.name):
            (Path(staging) / blob.name).replace(blob)
