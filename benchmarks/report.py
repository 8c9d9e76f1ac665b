"""How every benchmark speaks: a table for people, and one JSON object as the last line."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def report(name: str, *, columns: Sequence[str], rows: Sequence[Sequence[str]], figures: Mapping[str, float]) -> None:
    """Print what was measured, where, and at which commit."""
    where, at = device(), commit()
    print(f"{name} on {where}, commit {at}\n")
    print_table(columns, rows)
    print()
    print(json.dumps({"name": name, "device": where, "commit": at, "figures": dict(figures)}))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned first column, the others right-aligned."""
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    for row in (columns, ["-" * width for width in widths], *rows):
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *others]).rstrip())


def spread(values: Sequence[float]) -> str:
    """Least to largest, as a person reads it."""
    return f"{min(values):.3g} – {max(values):.3g}"


def median(values: Sequence[float]) -> float:
    """Rounded to four digits: more are noise."""
    return float(f"{statistics.median(values):.4g}")


def device() -> str:
    return f"{_cpu_model()}, {os.cpu_count()} cores"


def commit() -> str:
    """Short hash of the checked-out commit, with '+' if files differ from it; 'unknown' outside of git."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "--short", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
