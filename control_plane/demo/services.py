"""Control plane and runtime as child processes on loopback, ready to be talked to."""

from dataclasses import dataclass
from pathlib import Path

from control_plane.demo.narrator import Narrator
from control_plane.demo.processes import Processes, choose_port

DEFAULT_PORT = 8020
DEFAULT_RUNTIME_PORT = 8021
READY_SECONDS = 60.0
TICK_SECONDS = "0.05"  # wall time: the demo's event time runs some ten thousand times faster


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    control_plane: str
    runtime: str


def choose_addresses(narrator: Narrator, port: int | None, runtime_port: int | None) -> Addresses:
    chosen = choose_port(port, DEFAULT_PORT)
    chosen_runtime = choose_port(runtime_port, DEFAULT_RUNTIME_PORT, taken=(chosen,))
    for default, found in ((DEFAULT_PORT, chosen), (DEFAULT_RUNTIME_PORT, chosen_runtime)):
        if found != default and port is None:
            narrator.say(f"port {default} is in use here, so this demo listens on {found}")
    return Addresses(control_plane=f"http://127.0.0.1:{chosen}", runtime=f"http://127.0.0.1:{chosen_runtime}")


def start(processes: Processes, addresses: Addresses, data_dir: Path, clock_file: Path) -> None:
    """Start both and wait until they answer."""
    env = {
        "SUREFOOT_DATA_DIR": str(data_dir / "registry"),
        "SUREFOOT_DATABASE_URL": "",
        "SUREFOOT_HOST": "127.0.0.1",
        "SUREFOOT_PORT": port_of(addresses.control_plane),
        "SUREFOOT_RUNTIME_HOST": "127.0.0.1",
        "SUREFOOT_RUNTIME_PORT": port_of(addresses.runtime),
        "SUREFOOT_CLOCK_FILE": str(clock_file),
        "SUREFOOT_TICK_SECONDS": TICK_SECONDS,
        "SUREFOOT_RUNS_SCHEDULER": "true",
        "SUREFOOT_TOKENS": "",
    }
    processes.start("control-plane", ["-m", "control_plane", "serve"], env)
    processes.wait_ready("control-plane", f"{addresses.control_plane}/v1/health", seconds=READY_SECONDS)
    arguments = ["-m", "model_runtime", "serve", "--control-plane", addresses.control_plane]
    place = ["--port", port_of(addresses.runtime), "--data-dir", str(data_dir / "runtime")]
    processes.start("runtime", [*arguments, *place], {**env, "SUREFOOT_TOKEN": "", "OMP_NUM_THREADS": "1"})
    processes.wait_ready("runtime", f"{addresses.runtime}/v2/health/live", seconds=READY_SECONDS)


def port_of(url: str) -> str:
    return url.rsplit(":", 1)[1]
