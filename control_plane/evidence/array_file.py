"""Arrays remembered in a file: what is missing or damaged is computed again, so nothing here is synced."""

import os
import uuid
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]


def remember(path: Path, arrays: "Arrays", *, known_by: str) -> None:
    """Write by atomic rename; a full disk costs time, not the answer."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                np.savez(file, allow_pickle=False, known_by=np.array(known_by), **arrays)
            os.replace(temporary, path)  # noqa: PTH105 - atomic over an existing file, said plainly
        finally:
            temporary.unlink(missing_ok=True)


def recall(path: Path) -> "tuple[str, Arrays] | None":
    """What `remember` wrote, and what it is known by; None if there is nothing, or a crash left less than all."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
            return str(arrays.pop("known_by")), arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
