"""The demo itself: the whole path, in two processes and on real data, as a new user would see it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.demo.fetch import FetchFailed, default_cache_dir, open_bandit_wheel
from control_plane.demo.stage_real import EXPECTED as REAL
from control_plane.demo.stage_simulated import EXPECTED as SIMULATED


@pytest.fixture
def open_bandit() -> Path:
    try:
        return open_bandit_wheel(default_cache_dir())
    except FetchFailed as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.usefixtures("open_bandit")
def test_the_demo_ends_with_every_expected_outcome(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "control_plane", "demo", "--exit", "--data-dir", str(tmp_path / "demo")]

    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TERM": "dumb"}, check=False)

    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["outcomes"] == dict.fromkeys((*REAL, *SIMULATED), True)
    assert "SIMULATED" in done.stdout
