"""The demo's child processes: started, waited for, and stopped by their own ids, whatever happens."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx

from control_plane.domain.errors import ControlPlaneError

STOP_SECONDS = 10.0  # asked to end for this long, then made to
POLL_SECONDS = 0.05
LOG_LINES_SHOWN = 15
PR_SET_PDEATHSIG = 1  # Linux: the kernel ends a child whose parent died without saying goodbye


class PortInUse(ControlPlaneError):
    """Somebody else listens where the demo was told to."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(f"port {port} is in use; stop what listens there or name another one")


class ProcessFailed(ControlPlaneError):
    """A child ended or never became ready; carries the end of its log."""

    def __init__(self, name: str, problem: str, log: Path) -> None:
        self.name = name
        self.log = log
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:] if log.exists() else []
        super().__init__("\n".join([f"{name} {problem}; the end of {log}:", *(f"  {line}" for line in lines)]))


class Processes:
    """A context manager: leaving it stops every child, the last started first."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        log_dir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Run `python ARGUMENTS…` in the background. Ctrl-C reaches only the demo, which then stops its children."""
        self._children.append((name, self._spawn(name, arguments, env)))

    def run_beside(
        self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Callable[[], None]:
        """Start work that ends by itself; the answer waits for it and raises `ProcessFailed` if it failed."""
        child = self._spawn(name, arguments, env)
        self._children.append((name, child))

        def wait() -> None:
            if child.wait() != 0:
                raise ProcessFailed(name, f"failed with exit code {child.returncode}", self.log_of(name))

        return wait

    def run(self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.run_beside(name, arguments, env)()

    def wait_ready(self, name: str, url: str, *, seconds: float) -> None:
        """Return once `url` answers 200; a child that ends meanwhile is an error at once."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check_alive(name)
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url, timeout=2).status_code == httpx.codes.OK:
                    return
            time.sleep(POLL_SECONDS)
        raise ProcessFailed(name, f"was not ready within {seconds:.0f} s", self.log_of(name))

    def check_alive(self, name: str) -> None:
        for known, child in self._children:
            if known == name and child.poll() is not None:
                raise ProcessFailed(name, f"ended with exit code {child.returncode}", self.log_of(name))

    def log_of(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    def stop_all(self) -> None:
        running = [child for _, child in reversed(self._children) if child.poll() is None]
        for child in running:
            child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            try:
                child.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()

    def _spawn(self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        with self.log_of(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )


def choose_port(wanted: int | None, default: int, *, taken: Sequence[int] = ()) -> int:
    """The port that was asked for, or the default, or a free one where only the default is taken.

    Raises:
        PortInUse: a port was asked for by number and is not free.
    """
    if wanted is not None:
        if not is_free(wanted):
            raise PortInUse(wanted)
        return wanted
    if default not in taken and is_free(default):
        return default
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
