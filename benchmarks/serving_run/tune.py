"""Which of a peer's settings serves best here: its processes, and whether to join requests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import print_table
from benchmarks.serving_run.model import Exported
from benchmarks.serving_run.rounds import LARGE, SMALL, Bench, Up
from benchmarks.serving_run.servers import Peer, Tuning, free_port, started

SECONDS = 3.0


def show(bench: Bench, stable: Exported, folder: Path, peers: Sequence[type[Peer]]) -> None:
    rows = []
    for peer in peers:
        for place, tuning in enumerate(_tunings(peer)):
            server = peer(free_port(), folder / f"{peer.name.replace(' ', '-')}-{place}", stable).with_tuning(tuning)
            with started(server) as processes:
                rates = _rates(bench, Up(server=server, processes=processes))
            rows.append([peer.name, str(tuning.workers), str(tuning.max_batch_size), *rates.values()])
            print(" ".join(rows[-1]), flush=True)
    print_table(["rows/s", "workers", "joined", *(load.name for load in (*LARGE, SMALL))], rows)


def _tunings(peer: type[Peer]) -> list[Tuning]:
    fewest = 0 if peer.environment_name == "mlserver" else 1  # none: inference in MLServer's own process
    tunings = [Tuning(workers=workers) for workers in range(fewest, 3)]
    if not peer.name.endswith("broadcast"):
        tunings += [Tuning(workers=tunings[-1].workers, max_batch_size=8, batch_seconds=0.005)]
    return tunings


def _rates(bench: Bench, up: Up) -> Mapping[str, str]:
    rates = {}
    for load in (*LARGE, SMALL):
        bench.send(up.server, load, seconds=SECONDS / 3)
        rates[load.name] = f"{bench.measure(up, load, seconds=SECONDS).rows_per_s:.0f}"
    return rates
