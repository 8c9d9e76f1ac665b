"""Which of a peer's settings serves best here: its processes, and whether to join requests."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import print_table
from benchmarks.serving_run.model import Exported
from benchmarks.serving_run.rounds import LARGE, SMALL, Bench, Up
from benchmarks.serving_run.servers import Peer, Tuning, free_port, started

SECONDS = 2.0
LOADS = (LARGE[1], SMALL)


def show(bench: Bench, stable: Exported, folder: Path, peers: Sequence[type[Peer]]) -> None:
    rows = []
    for peer in peers:
        for place, tuning in enumerate(_tunings(peer)):
            server = peer(free_port(), folder / f"{peer.name.replace(' ', '-')}-{place}", stable).with_tuning(tuning)
            with started(server) as processes:
                rates = _rates(bench, Up(server=server, processes=processes))
            rows.append([peer.name, str(tuning.workers), str(tuning.max_batch_size), *rates])
            print(" ".join(rows[-1]), flush=True)
    of_loads = [f"{load.name} {what}" for load in LOADS for what in ("rows/s", "CPU ms")]
    print_table(["settings of", "workers", "joined", *of_loads], rows)


def _tunings(peer: type[Peer]) -> list[Tuning]:
    fewest = 0 if peer.environment_name == "mlserver" else 1  # none: inference in MLServer's own process
    tunings = [Tuning(workers=workers) for workers in range(fewest, 3)]
    if not peer.name.endswith("broadcast"):
        tunings += [Tuning(workers=tunings[-1].workers, max_batch_size=8, batch_seconds=0.005)]
    return tunings


def _rates(bench: Bench, up: Up) -> list[str]:
    rates: list[str] = []
    for load in LOADS:
        bench.send(up.server, load, seconds=SECONDS / 2)
        measured = bench.measure(up, load, seconds=SECONDS)
        rates += [f"{measured.rows_per_s:.0f}", f"{measured.cpu_ms:.3g}"]
    return rates
