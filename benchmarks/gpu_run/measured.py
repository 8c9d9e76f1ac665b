"""All that is measured on a device, as a table for people and one JSON object, and whether each bar is reached."""

import json
import math
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.gpu_run.dense import dense_rates
from benchmarks.gpu_run.embedding import bandwidths, copy_bandwidth
from benchmarks.gpu_run.parity import kernel_parity
from benchmarks.gpu_run.scale import FULL, QUICK, Scale
from benchmarks.gpu_run.whole import export_wide, graph_gains, in_every_profile, requests
from benchmarks.report import commit, print_table
from model_runtime.kernels.choice import REFERENCE, TOLERANCE, kernel_for
from model_runtime.precision import FP32, TF32

BARS = {"embedding_bandwidth_ratio": 0.70, "tf32_dense_ratio": 1.5, "graph_ratio": 2.0, "profiles_served": 4}
BAR_ROWS = "one-hot, fp32 rows of 64"  # what the first bar is of

Table = list[tuple[str, str, str]]


def run(device: str, *, is_quick: bool) -> int:
    """1 where a figure is below its bar."""
    torch.cuda.set_device(device)
    table, figures = measure(device, QUICK if is_quick else FULL)
    missed = _missed(figures)
    where = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    print(f"gpu on {where}, commit {commit()}\n")
    print_table(("what", "figure", "beside"), table)
    print("\n" + ("\n".join(f"below its bar: {each}" for each in missed) or "every bar is reached") + "\n")
    print(json.dumps({"name": "gpu", "device": where, "commit": commit(), "figures": figures, "missed": missed}))
    return int(bool(missed))


def measure(device: str, scale: Scale) -> tuple[Table, Mapping[str, float]]:
    """The parts one after another; each frees its memory before the next."""
    table: Table = []
    figures: dict[str, float] = {}
    for part in (_embedding, _dense, _whole):
        print(f"measuring{part.__name__.replace('_', ' ')} ...", file=sys.stderr)
        try:
            part(device, scale, table, figures)
        except Exception:  # what was measured is told, whatever breaks after it
            traceback.print_exc()
            table.append((f"{part.__name__.removeprefix('_')} broke off", "", "see above"))
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    return table, figures


def _missed(figures: Mapping[str, float]) -> list[str]:
    found = {name: figures.get(name, math.nan) for name in (*BARS, "kernel_parity")}
    missed = [
        f"{name} is {found[name]:.3g}, its bar is {bar:g}" for name, bar in BARS.items() if not found[name] >= bar
    ]
    if not found["kernel_parity"] <= TOLERANCE:
        missed.append(f"kernel_parity is {found['kernel_parity']:.2g}, at most {TOLERANCE:g} is right")
    return missed


def _embedding(device: str, scale: Scale, table: Table, figures: dict[str, float]) -> None:
    kernel = kernel_for(device)
    figures["is_triton"] = float(kernel is not REFERENCE)
    cases = [] if kernel is REFERENCE else list(kernel_parity(kernel, device))
    figures["kernel_parity"] = max((case.worst for case in cases), default=0.0)
    table.append(
        (f"kernel {kernel.name} against its reference", f"{figures['kernel_parity']:.2g}", "largest difference")
    )
    copy = copy_bandwidth(device, scale)
    figures["copy_gb_per_second"] = copy / 1e9
    table.append(("copy within the device", f"{copy / 1e9:.0f} GB/s", ""))
    for each in bandwidths(kernel, device, scale, copy):
        table.append((each.name, f"{each.bytes_per_second / 1e9:.0f} GB/s", f"{each.share_of_copy:.0%} of a copy"))
        if each.name == f"{kernel.name}, {BAR_ROWS}":
            figures["embedding_bandwidth_ratio"] = each.share_of_copy


def _dense(device: str, scale: Scale, table: Table, figures: dict[str, float]) -> None:
    rates = {each.precision: each for each in dense_rates(device, scale)}
    for name, rate in rates.items():
        share = rate.flops / rate.matrix_flops
        figures[f"{name}_dense_tflops"], figures[f"{name}_matrix_tflops"] = rate.flops / 1e12, rate.matrix_flops / 1e12
        beside = f"{share:.0%} of the {rate.matrix_flops / 1e12:.1f} of a square product"
        table.append((f"dense part in {name}", f"{rate.flops / 1e12:.1f} TFLOP/s", beside))
    for name, rate in rates.items():
        figures[f"{name}_dense_ratio"] = rates[FP32].seconds / rate.seconds
    table.append(("dense part, tf32 over fp32", f"{figures['tf32_dense_ratio']:.2f}×", ""))


def _whole(device: str, scale: Scale, table: Table, figures: dict[str, float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        versions = in_every_profile(export_wide(Path(folder)), device)
    figures["profiles_served"] = float(sum(version.precision == name for name, version in versions.items()))
    for name, version in versions.items():
        card = version.parity
        if card is not None:
            figures[f"{name}_max_delta"] = card.max_delta
            told = f"flips {card.rank_flips:.2%} at {card.k}, calibration {card.calibration_shift:.2%}"
            table.append((f"parity of {name}", f"{card.max_delta:.2g} at most", version.refused or told))
    figures["has_graphs"] = float(all(version.replay is not None for version in versions.values()))
    table.append(("versions with graphs", "all" if figures["has_graphs"] else "not all", ""))
    gains = list(graph_gains(versions[TF32], scale))
    for gain in gains:
        name = f"graph over none, {gain.users} users, {gain.rows} rows"
        table.append((name, f"{gain.eager_ms / gain.graph_ms:.2f}×", f"{gain.eager_ms:.2f} ms → {gain.graph_ms:.2f}"))
    figures["graph_ratio"] = min(gain.eager_ms / gain.graph_ms for gain in gains)
    for name, version in versions.items():
        for each in requests(version, name, scale):
            what = f"{name}, {each.users} users, {each.rows} rows"
            figures[f"{name}_{each.users}x{each.rows}_rows_per_second"] = each.rows_per_second
            latency = f"p50 {each.p50_ms:.2f} ms, p99 {each.p99_ms:.2f} ms"
            table.append((what, f"{each.rows_per_second / 1e6:.2f} M rows/s", latency))
