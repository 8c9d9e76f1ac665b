"""A server's processes, whoever started them: found by a mark in their environment, so that none is forgotten.

Linux only: all is read from /proc.
"""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "SUREFOOT_BENCH_SERVER"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 20.0
USER, SYSTEM, REAPED_USER, REAPED_SYSTEM = 11, 12, 13, 14  # places in /proc/PID/stat behind the command's name


class Processes:
    """Those that carry one mark."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()

    def pids(self) -> list[int]:
        return [
            int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and self._is_ours(folder)
        ]

    def cpu_seconds(self) -> float:
        """Of all of them and of the children that they waited for, since they began."""
        return sum(_cpu_seconds(pid) for pid in self.pids())

    def _is_ours(self, folder: Path) -> bool:
        try:
            return self._mark in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended, or is another user's
            return False


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    log: Path,
    is_up: Callable[[], bool],
    seconds: float,
) -> Iterator[Processes]:
    """Start it, wait until it is up, and leave nothing of it behind.

    Raises:
        RuntimeError: with the end of its log, if it does not come up.
    """
    mark = uuid.uuid4().hex
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Processes(mark)
    try:
        deadline = time.monotonic() + seconds
        while not is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} did not come up:\n{log.read_text(errors='replace')[-3_000:]}")
            time.sleep(0.1)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        for pid in found.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(fields[place]) for place in (USER, SYSTEM, REAPED_USER, REAPED_SYSTEM)) / TICKS_PER_S
