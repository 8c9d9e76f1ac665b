"""The demo's own folder: replaced at every run, but only if the demo made it."""

import shutil
from pathlib import Path

from control_plane.domain.errors import ControlPlaneError

MARKER = ".made-by-surefoot-demo"


class NotTheDemos(ControlPlaneError):
    """The folder holds something else, which the demo will not delete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} exists and was not made by the demo; name another folder or remove it yourself")


def fresh_folder(path: Path) -> Path:
    """An empty folder with the demo's mark in it."""
    if path.exists():
        is_empty = path.is_dir() and not any(path.iterdir())
        if not is_empty and not (path / MARKER).is_file():
            raise NotTheDemos(path)
        shutil.rmtree(path)
    path.mkdir(parents=True)
    (path / MARKER).write_text("surefoot demo: safe to delete\n")
    return path.resolve()
