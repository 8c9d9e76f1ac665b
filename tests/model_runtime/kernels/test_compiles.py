"""The Triton kernels as machine code for real GPUs: Triton brings its own assembler, so no GPU is needed."""

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton (pip install triton)", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model_runtime.kernels.fused import NUM_WARPS, bags_kernel, one_hot_kernel

AMPERE, HOPPER = 80, 90
POINTERS = {"index": "*i64", "start": "*i64", "begin": "*i64", "count": "*i64", "affine": "*fp32", "out": "*fp32"}


@pytest.mark.parametrize("capability", [AMPERE, HOPPER])
@pytest.mark.parametrize("rows", ["fp32", "fp16", "i8"])
@pytest.mark.parametrize(
    ("kernel", "constants"), [(one_hot_kernel, {}), (bags_kernel, {"MAX_VALUES": 5})], ids=["one_hot", "bags"]
)
def test_kernels_compile_for_gpus(kernel: object, constants: dict[str, int], rows: str, capability: int) -> None:
    constants = {**constants, "WIDTH": 24, "LANES": 32, "PLACES": 64, "HAS_AFFINE": rows == "i8"}
    names = kernel.arg_names  # type: ignore[attr-defined]  # Triton is untyped
    kinds = {**POINTERS, "table": f"*{rows}"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}

    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": NUM_WARPS},
    )

    assert len(compiled.asm["cubin"]) > 1_000
    assert f".target sm_{capability}" in compiled.asm["ptx"]
