"""How much memory a benchmark took at its peak."""

import resource
import sys
from pathlib import Path


def peak_mb() -> float:
    """Of this process since it became this program; ru_maxrss would include the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
