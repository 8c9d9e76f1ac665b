"""Every benchmark ends in one JSON line with the figures that are promised."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUARDRAIL_FIGURES = {
    *("false_alarm_1000", "false_alarm_1000_upper95", "family_false_rollback"),
    *("false_alarm_returning_users", "false_alarm_staggered_entry", "false_alarm_split_5_95"),
    *("false_alarm_ramp_with_switchers", "calibration_false_alarm", "calibration_delay_median_5pct"),
    *("ramp_bias_points", "srm_false_alarm", "srm_users_median", "ms_per_hypothesis"),
    *("sweep_36x14_ms", "state_mb", "rollouts_1000_s", "rollouts_1000_mb"),
    *(f"false_alarm_1000_{rival}" for rival in ("gbstats", "msprt")),
    *(
        f"{figure}{suffix}"
        for figure in (
            "users_median_50pct",
            *(f"delay_{part}_{size}pct" for part in ("median", "q90") for size in (3, 5, 10)),
        )
        for suffix in ("", "_gbstats", "_msprt")
    ),
}


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


@pytest.mark.slow
def test_a_quick_run_beside_mlflow_prints_its_figures_last() -> None:
    if not (ROOT / ".bench" / "mlflow" / ".installed").exists():
        pytest.skip("MLflow is not installed: make rivals does it")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.registry", "--quick"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures.keys() >= {"lookup_ratio", "lookup_p99_ratio", "create_ratio"}
    assert all(math.isfinite(value) and value > 0 for value in figures.values())


@pytest.mark.slow
def test_a_quick_run_of_the_guardrails_prints_every_bar_and_figure_and_says_that_it_was_quick() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.guardrails", "--quick"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures.keys() >= GUARDRAIL_FIGURES
    assert figures["is_quick"] == 1
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    assert {line[:1] for line in done.stdout.splitlines() if line[1:3] == "  "} == set("12345678")
