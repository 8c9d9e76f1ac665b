"""The Open Bandit sample: fetched once through the user's own package index, checked, and kept in a cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from control_plane.domain.errors import ControlPlaneError, DigestMismatch

REQUIREMENT = "obp==0.4.1"
WHEEL_NAME = "obp-0.4.1-py3-none-any.whl"
WHEEL_SHA256 = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
DOWNLOAD_SECONDS = 180.0  # 1.3 MB; slower than this is no network
ABOUT = "ZOZO Open Bandit Dataset, arXiv 2008.07146; see the data set's own page for its licence"


class FetchFailed(ControlPlaneError):
    """The data could not be had; says what to do about it."""

    def __init__(self, kept_at: Path, problem: str) -> None:
        self.kept_at = kept_at
        self.problem = problem
        super().__init__(
            f"could not fetch {REQUIREMENT}: {problem}\n"
            f"The demo needs this file once. With a network or a package mirror (pip's own settings are used), run it "
            f"again; or put {WHEEL_NAME} at {kept_at} yourself."
        )


def default_cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "surefoot"


def open_bandit_wheel(cache_dir: Path, *, sha256: str = WHEEL_SHA256) -> Path:
    """Return the path of the checked wheel, downloading it if the cache has none.

    Raises:
        FetchFailed: no network, no such package on the index, or no pip.
        DigestMismatch: the bytes are not the pinned ones; a wrong file in the cache is left for its owner to judge.
    """
    kept_at = cache_dir / WHEEL_NAME
    if not kept_at.exists():
        _download(kept_at, sha256)
    _check(kept_at, sha256)
    return kept_at


def _download(kept_at: Path, sha256: str) -> None:
    kept_at.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept_at.parent) as folder:
        _pip_download(Path(folder), kept_at)
        fetched = Path(folder) / WHEEL_NAME
        if not fetched.exists():
            raise FetchFailed(kept_at, f"the package index gave no {WHEEL_NAME}")
        _check(fetched, sha256)
        fetched.replace(kept_at)


def _pip_download(folder: Path, kept_at: Path) -> None:
    """Only the wheel, as a file: it is data here, so nothing of it is installed or run."""
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise FetchFailed(kept_at, f"no answer from the package index within {DOWNLOAD_SECONDS:.0f} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FetchFailed(kept_at, errors[-1].removeprefix("ERROR: ") if errors else "pip failed without a word")


def _check(path: Path, sha256: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise DigestMismatch(str(path), expected=f"sha256:{sha256}", found=f"sha256:{found}")
