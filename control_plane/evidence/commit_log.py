"""Which files of the event log count: a sequence of numbered commits, each adding and removing files at once.

A commit becomes visible by linking a finished file to the next free number, which fails if another writer
was first. Readers only ever open the next number, so they see commits in order and never a part of one.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from control_plane import failpoints

CHECKPOINT_EVERY = 256  # commits: what a new reader must at most read one by one, beyond the retained ones
RETAIN_SECONDS = 3_600.0  # a writer stalled for longer than this between reading and committing is dead


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One Parquet file. `mark` identifies its events: merging segments adds their marks modulo 2⁶⁴."""

    path: str  # relative to the log's root
    rows: int
    mark: int


class CommitLog:
    """The commits under one folder, shared by threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._number = 0
        self._visible: dict[str, Segment] = {}
        self._checkpoint_seen: tuple[int, int] | None = None

    def visible(self) -> dict[str, Segment]:
        """Every file that counts now, by path."""
        with self._lock:
            self._catch_up()
            return dict(self._visible)

    def commit(self, adds: Collection[Segment], removes: Collection[str] = ()) -> bool:
        """Add and remove files in one step; False, and nothing changed, if one to remove is gone already.

        Raises OSError only as long as nothing is visible; `sync` makes the commit durable.
        """
        staged = write_durably(self._folder / f".{uuid.uuid4().hex}.tmp", _encode(adds, removes))
        failpoints.reach("log.staged")
        try:
            with self._lock:
                return self._take_next_number(staged, removes)
        finally:
            with suppress(OSError):  # it may be committed by now, whatever becomes of the first name
                staged.unlink(missing_ok=True)

    def _take_next_number(self, staged: Path, removes: Iterable[str]) -> bool:
        while True:
            self._catch_up()
            if any(path not in self._visible for path in removes):
                return False
            try:
                os.link(staged, self._path(self._number + 1))
            except FileExistsError:
                continue
            failpoints.reach("log.linked")
            return True

    def sync(self) -> None:
        """Make commits durable. Apart from `commit`, since a failure here must not undo what others may have seen."""
        sync_folder(self._folder)

    def _catch_up(self) -> None:
        if self._number == 0:
            self._load_checkpoint()
        while True:
            try:
                text = self._path(self._number + 1).read_text()
            except FileNotFoundError:
                if self._load_checkpoint():
                    continue
                return
            self._apply(json.loads(text))

    def _apply(self, change: dict[str, list[object]]) -> None:
        for path in change["removes"]:
            self._visible.pop(str(path), None)
        for added in change["adds"]:
            segment = Segment(**added)  # type: ignore[arg-type]  # what `_encode` wrote
            self._visible[segment.path] = segment
        self._number += 1

    def checkpoint(self) -> None:
        """Write down what is visible, and forget commits that nobody can still need one by one."""
        with self._lock:
            self._catch_up()
            content = {"number": self._number, "visible": [asdict(segment) for segment in self._visible.values()]}
            staged = write_durably(self._folder / f".{uuid.uuid4().hex}.tmp", json.dumps(content).encode())
            staged.replace(self._folder / "checkpoint.json")
            sync_folder(self._folder)
        oldest = time.time() - RETAIN_SECONDS
        for path in self._folder.glob("[0-9]*.json"):
            if int(path.stem) <= content["number"] and path.stat().st_mtime < oldest:  # type: ignore[operator]
                path.unlink(missing_ok=True)

    @property
    def number(self) -> int:
        return self._number

    def _load_checkpoint(self) -> bool:
        """Jump forward to the checkpoint if there is another one than at the last look, and it lies ahead."""
        path = self._folder / "checkpoint.json"
        try:
            found = path.stat()
            if self._checkpoint_seen == (found.st_ino, found.st_mtime_ns):
                return False
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return False
        self._checkpoint_seen = (found.st_ino, found.st_mtime_ns)
        if content["number"] <= self._number:
            return False
        self._number = content["number"]
        self._visible = {item["path"]: Segment(**item) for item in content["visible"]}
        return True

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"


def write_durably(path: Path, content: bytes) -> Path:
    """Write and fsync; the file is gone again if that fails."""
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(adds: Iterable[Segment], removes: Iterable[str]) -> bytes:
    return json.dumps({"adds": [asdict(segment) for segment in adds], "removes": list(removes)}).encode()
