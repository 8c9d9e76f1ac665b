"""Training and exporting through the runtime's own commands, and registering what came out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from control_plane.demo.control_client import ControlClient
from control_plane.demo.processes import Processes

ONE_THREAD = {"OMP_NUM_THREADS": "1", "SUREFOOT_TORCH_THREADS": "1"}  # two trainings beside each other, one core each


def convert_open_bandit(processes: Processes, wheel: Path, data_dir: Path) -> None:
    processes.run("open-bandit", ["-m", "model_runtime", "open-bandit", "--wheel", str(wheel), "--out", str(data_dir)])


def train_beside(
    processes: Processes, name: str, data_dir: Path, checkpoint: Path, *options: str
) -> Callable[[], None]:
    """Start a training; the answer waits for it."""
    arguments = ["-m", "model_runtime", "train", "--data", str(data_dir), "--out", str(checkpoint), *options]
    return processes.run_beside(f"train-{name}", arguments, ONE_THREAD)


def export(processes: Processes, checkpoint: Path, out_dir: Path, *, faults: Sequence[str] = ()) -> None:
    """One pruned version per surface; `faults` breaks parts on purpose, like 'search.calibrator=1.6'."""
    flags = [flag for fault in faults for flag in ("--fault", fault)]
    arguments = ["-m", "model_runtime", "export", "--checkpoint", str(checkpoint), "--out", str(out_dir), *flags]
    processes.run(f"export-{out_dir.name}", arguments, ONE_THREAD)


def register_all(control: ControlClient, out_dir: Path, surfaces: Sequence[str]) -> Mapping[str, str]:
    """Version id by surface."""
    return {surface: control.register(str((out_dir / surface).resolve())) for surface in surfaces}
