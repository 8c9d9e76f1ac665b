"""The Triton kernel's results by Triton's interpreter, where there is no GPU. It says nothing about speed."""

from benchmarks.gpu_run.parity import kernel_parity
from benchmarks.report import report
from model_runtime.kernels.choice import TOLERANCE, triton_kernel


def run() -> int:
    """1 where a case is off by more than the tolerance."""
    cases = list(kernel_parity(triton_kernel(), "cpu"))
    worst = max(case.worst for case in cases)
    report(
        "gpu --interpret",
        columns=("Triton kernel, interpreted on the CPU", "largest difference"),
        rows=[(case.name, f"{case.worst:.2g}") for case in cases],
        figures={"kernel_parity": worst, "tolerance": TOLERANCE, "cases": len(cases)},
    )
    return int(not worst <= TOLERANCE)
