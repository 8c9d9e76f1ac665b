"""What time it is: the system's clock, or one that a replay drives."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

Clock = Callable[[], datetime]  # always timezone-aware, UTC


def system_clock() -> datetime:
    return datetime.now(UTC)


def file_clock(path: Path) -> Clock:
    """A clock that reads milliseconds since the epoch from a file, for replays faster than time.

    The writer replaces the file by an atomic rename, so that a reader never sees half a number.
    """

    def read() -> datetime:
        return datetime.fromtimestamp(int(path.read_text()) / 1_000, UTC)

    return read


def make_clock(path: Path | None) -> Clock:
    return system_clock if path is None else file_clock(path)
