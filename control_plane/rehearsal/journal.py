"""Runs that are done, one JSON line each, so that a rehearsal that was stopped goes on where it was.

The first line says what the runs are of; a journal of anything else is refused by name. A torn last line is what a
killed writer leaves: it is cut off and its run done again.
"""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from control_plane.domain.errors import ControlPlaneError
from control_plane.rehearsal.run import Run

FORMAT = "surefoot-rehearsal/1"

Key = tuple[str, int]  # digest of the scenario, number of the run


class JournalRefused(ControlPlaneError):
    """The file is no journal of this rehearsal."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"journal {path}: {problem}")


class Journal:
    """Open for one process at a time; `identity` is what the runs depend on, by name."""

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        self.path = path
        self.done: dict[Key, Run] = {}
        header = {"format": FORMAT, **identity}
        try:
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            raise JournalRefused(path, error.strerror or str(error)) from error
        self._lock()
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if whole:
            self._read(whole.decode(errors="replace").splitlines(), header)
        elif content and not _line(header).startswith(content):
            self._refuse("is not one of a rehearsal")
        self._file.truncate(len(whole))
        if not whole:
            self._write(_line(header))

    def add(self, key: Key, run: Run) -> None:
        self.done[key] = run
        self._write(_line({"scenario": key[0], "run": key[1], "result": run.to_json()}))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._refuse("another rehearsal is writing it")

    def _read(self, lines: list[str], header: Mapping[str, str]) -> None:
        found = _mapping(lines[0])
        if found.get("format") != FORMAT:
            self._refuse("is not one of a rehearsal")
        differing = [name for name in header if found.get(name) != header[name]]
        if differing:
            self._refuse(_difference(differing, found, header))
        for number, line in enumerate(lines[1:], start=2):
            try:
                value = _mapping(line)
                self.done[str(value["scenario"]), int(str(value["run"]))] = Run.from_json(dict(value["result"]))  # type: ignore[call-overload]  # checked by the except
            except (KeyError, TypeError, ValueError):
                self._refuse(f"line {number} is damaged")

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()

    def _refuse(self, problem: str) -> None:
        self._file.close()
        raise JournalRefused(self.path, problem)


def _mapping(line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _difference(differing: list[str], found: Mapping[str, object], header: Mapping[str, str]) -> str:
    if "plan" in differing:
        return f"holds runs of the plan {found.get('plan')!r}, not of {header['plan']!r}; name another file"
    if differing == ["code"]:
        return "holds runs by another version of Surefoot, whose judge may answer differently; name another file"
    names = " and ".join(name.replace("_", " ") for name in differing if name != "plan_digest")
    if not names:
        return f"holds runs of another version of the plan {header['plan']!r}; name another file"
    return f"holds runs under another {names}; name another file"


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
