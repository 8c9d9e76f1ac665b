"""The Triton kernel by Triton's interpreter, in a process of its own: Triton reads its switch as it is imported."""

import importlib.util
import json
import subprocess
import sys

import pytest

from model_runtime.kernels.choice import TOLERANCE


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton (pip install triton)")
def test_the_kernel_equals_the_reference_on_every_type_of_row_and_shape() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--interpret"], capture_output=True, text=True, timeout=240
    )

    assert found.returncode == 0, found.stdout + found.stderr
    figures = json.loads(found.stdout.splitlines()[-1])["figures"]
    assert figures["kernel_parity"] <= TOLERANCE
    assert figures["cases"] == 27
