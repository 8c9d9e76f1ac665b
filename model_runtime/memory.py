"""Whether a version fits before it is loaded: what loading takes, and what the device and the machine have left."""

from pathlib import Path

import torch

from control_plane.domain.errors import ControlPlaneError

COPIES_AT_LOAD = 3  # a load holds a file's bytes, the tensors read from them and the network's own at once
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
RECLAIMABLE = ("inactive_file", "active_file")  # of a cgroup's use: the page cache, given back when asked for


class DoesNotFit(ControlPlaneError):
    """Loading it would take memory that what serves needs."""

    def __init__(self, needed_bytes: int, left_bytes: int) -> None:
        super().__init__(f"does not fit: it takes {_mib(needed_bytes)} to load, {_mib(left_bytes)} are left")


def check_fits(new_bytes: int, held_bytes: int, *, budget_bytes: int, device: str) -> None:
    """Raise `DoesNotFit` where weights of `new_bytes` break the budget (0 is none), or memory is too short for them."""
    if budget_bytes and held_bytes + new_bytes > budget_bytes:
        raise DoesNotFit(new_bytes, max(0, budget_bytes - held_bytes))
    if new_bytes * COPIES_AT_LOAD > (left := left_bytes()):
        raise DoesNotFit(new_bytes * COPIES_AT_LOAD, left)
    if device.startswith("cuda") and new_bytes > (left := torch.cuda.mem_get_info(device)[0]):
        raise DoesNotFit(new_bytes, left)


def left_bytes() -> int:
    """What this process may still take of the machine's memory, and of its container's."""
    return min(_left_of_machine(), _left_of_container())


def _left_of_machine() -> int:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 1 << 62  # a system that does not tell


def _left_of_container() -> int:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 1 << 62
    if limit == "max":
        return 1 << 62
    return max(0, int(limit) - used + sum(int(stat.get(name, 0)) for name in RECLAIMABLE))


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
