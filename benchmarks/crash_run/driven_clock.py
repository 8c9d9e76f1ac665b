"""The file that replicas read the time from, and who moves it on."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from control_plane.clock import file_clock

STEP_SECONDS = 0.025


class DrivenClock:
    """So many seconds of event time a second, while it runs."""

    def __init__(self, path: Path, starts_at: datetime, *, seconds_per_second: float) -> None:
        self.read = file_clock(path)
        self._path = path
        self._speed = seconds_per_second
        self._stopped = threading.Event()
        self._write(starts_at.timestamp())

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self) -> None:
        began, began_at = time.monotonic(), self.read().timestamp()
        while not self._stopped.wait(STEP_SECONDS):
            self._write(began_at + (time.monotonic() - began) * self._speed)

    def _write(self, timestamp: float) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(str(round(timestamp * 1_000)))
        temporary.replace(self._path)
