"""Every benchmark ends in one JSON line with the figures that are promised."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("split", {"scalar_us", "vectorised_million_per_s"}),
        pytest.param("moments", {"events_per_s", "peak_mb_1m", "peak_mb_5m", "peak_mb_10m"}, marks=pytest.mark.slow),
    ],
)
def test_a_quick_run_prints_its_figures_last(name: str, figures: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed.keys() == {"name", "device", "commit", "figures"}
    assert printed["name"] == name
    assert printed["figures"].keys() == figures
    assert all(value > 0 for value in printed["figures"].values())
