"""The GPU benchmark where there is no GPU: that its code runs, on little, and with the runtime's own needs alone."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu_run.measured import BARS, measure
from benchmarks.gpu_run.scale import TINY

LEFT_OUT = """
import sys
class LeftOut:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError("left out: " + name)
sys.meta_path.insert(0, LeftOut())
import benchmarks.gpu_run.measured, benchmarks.gpu
"""
NOT_NEEDED = (
    *("rich", "sqlalchemy", "alembic", "fastapi", "starlette", "uvicorn", "httptools", "httpx", "pydantic", "typer"),
    *("prometheus_client", "duckdb", "scipy", "yaml", "jinja2", "apscheduler", "dateutil", "pydantic_settings"),
)


def test_every_part_runs_and_every_figure_with_a_bar_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    table, figures = measure("cpu", TINY)

    assert not [row for row in table if "broke off" in row[0]], capsys.readouterr().err
    assert figures.keys() >= BARS.keys()
    assert figures["profiles_served"] == 4
    assert all(figure >= 0 for figure in figures.values())


def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_a_code_of_its_own() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")

    found = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, timeout=120)

    assert found.returncode == 3
    assert found.stderr == "no CUDA device: nothing to measure here; --interpret checks the kernel on the CPU\n"
    assert found.stdout == ""


def test_it_needs_no_more_than_the_runtime_does() -> None:
    names = json.dumps(NOT_NEEDED)

    found = subprocess.run(
        [sys.executable, "-c", LEFT_OUT.replace("{names}", names)], capture_output=True, text=True, timeout=120
    )

    assert found.returncode == 0, found.stderr
