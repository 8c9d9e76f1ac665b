"""The benchmarks of many subscribers and of many rollouts, in their quick form: figures, and what no load excuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.usefixtures("postgres")]


def figures_of(name: str) -> dict[str, float]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["name"] == name
    figures: dict[str, float] = printed["figures"]
    return figures


def test_weights_reach_every_subscriber_and_never_go_backwards() -> None:
    figures = figures_of("propagation")

    assert figures.keys() == {
        *("p50_ms_200", "p99_ms_200", "p99_ms_1000", "lost", "backwards", "poll_fallback_s", "rollback_commit_p99_ms")
    }
    assert (figures["lost"], figures["backwards"]) == (0, 0)
    assert figures["poll_fallback_s"] <= 10


def test_a_scheduler_of_three_thousand_rollouts_decides() -> None:
    figures = figures_of("tick")

    assert figures.keys() == {
        *("decisions_per_s", "tick_lag_p99_s", "most_overdue_s", "cpu_ms_a_decision", "decisions_per_s_flat_out")
    }
    assert all(figure > 0 for figure in figures.values())
