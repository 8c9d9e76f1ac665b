"""Each peer in a virtual environment of its own under .bench/, made when it is missing or its pins changed."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ("mlserver", "litserve", "ray")
STAMP = ".installed"


class CannotInstall(Exception):
    """A peer's packages are not to be had here; what pip said last."""


def python_of(peer: str) -> Path:
    return _home(peer) / "bin" / "python"


def is_installed(peer: str) -> bool:
    stamp = _home(peer) / STAMP
    return stamp.exists() and stamp.read_text() == _pins(peer).read_text()


def install(peer: str) -> None:
    """Make the peer's environment; a minute or two and about 1 GB, once. Our own code is read from the checkout.

    Raises:
        CannotInstall: with the end of what pip wrote.
    """
    home, wanted = _home(peer), _pins(peer).read_text()
    print(f"installing {peer} into {home} (a minute or two, once) ...", flush=True)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(_pins(peer))]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise CannotInstall(done.stderr.strip()[-1_000:])
    (home / STAMP).write_text(wanted)
    print(f"{peer} is there after {time.monotonic() - started:.0f} s", flush=True)


def _home(peer: str) -> Path:
    return ROOT / ".bench" / peer


def _pins(peer: str) -> Path:
    return Path(__file__).with_name(f"{peer}.txt")
