"""Registry calls over HTTP, side by side with an MLflow tracking server on the same machine and kind of database."""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median as exact_median

from benchmarks.registry_run.load import Measured, measure
from benchmarks.registry_run.servers import Server, install_mlflow, mlflow, surefoot
from benchmarks.report import median, report, spread

CONNECTIONS = 8
WARM_UP_SECONDS = 1.0
MOST_PER_S = 600  # creations that artifacts are laid out for


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    rounds: int
    seconds: float  # of each side, in each round, for each kind of call


FULL, QUICK = Size(rounds=9, seconds=3.0), Size(rounds=3, seconds=0.8)
Kind = Callable[[Server, float], Iterator[bytes]]
KINDS: dict[str, Kind] = {
    "version by alias": lambda server, seconds: server.lookups(),
    "new version": lambda server, seconds: server.creations(round(MOST_PER_S * seconds)),
    "alias moved": lambda server, seconds: server.promotions(),
}
Rounds = dict[str, list[tuple[Measured, Measured]]]  # ours and MLflow's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    size = QUICK if parser.parse_args().quick else FULL
    install_mlflow()
    with tempfile.TemporaryDirectory(prefix="surefoot-registry-") as folder, ExitStack() as running:
        ours = running.enter_context(surefoot(Path(folder)))
        theirs = running.enter_context(mlflow(Path(folder)))
        measured = run(ours, theirs, size)
    show(measured)


def run(ours: Server, theirs: Server, size: Size) -> Rounds:
    """Both sides in turn, so that a busy machine is busy for both; who begins changes from round to round."""
    for server in (ours, theirs):
        for kind in KINDS.values():
            _measured(server, kind, WARM_UP_SECONDS)
    measured: Rounds = defaultdict(list)
    for number in range(size.rounds):
        for name, kind in KINDS.items():
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            by_side = {server: _measured(server, kind, size.seconds) for server in order}
            measured[name].append((by_side[ours], by_side[theirs]))
    return measured


def show(measured: Rounds) -> None:
    lookups, creations = measured["version by alias"], measured["new version"]
    report(
        "registry",
        columns=("calls", "ours/s", "MLflow/s", "ratio", "spread", "our p99 ms", "MLflow's p99 ms", "ratio of p99"),
        rows=[_row(name, rounds) for name, rounds in measured.items()],
        figures={
            "lookup_ratio": _rate_ratio(lookups),
            "lookup_p99_ratio": _p99_ratio(lookups),
            "create_ratio": _rate_ratio(creations),
            "create_p99_ratio": _p99_ratio(creations),
            "alias_moved_ratio": _rate_ratio(measured["alias moved"]),
            "lookups_per_s": median([ours.per_s for ours, _ in lookups]),
            "mlflow_lookups_per_s": median([theirs.per_s for _, theirs in lookups]),
            "creations_per_s": median([ours.per_s for ours, _ in creations]),
            "mlflow_creations_per_s": median([theirs.per_s for _, theirs in creations]),
        },
    )


def _measured(server: Server, kind: Kind, seconds: float) -> Measured:
    return measure(server.port, kind(server, seconds), connections=CONNECTIONS, seconds=seconds)


def _rate_ratio(rounds: list[tuple[Measured, Measured]]) -> float:
    return median([ours.per_s / theirs.per_s for ours, theirs in rounds])


def _p99_ratio(rounds: list[tuple[Measured, Measured]]) -> float:
    return median([ours.p99_ms / theirs.p99_ms for ours, theirs in rounds])


def _row(name: str, rounds: list[tuple[Measured, Measured]]) -> list[str]:
    ours, theirs = zip(*rounds, strict=True)
    return [
        name,
        f"{exact_median(side.per_s for side in ours):.0f}",
        f"{exact_median(side.per_s for side in theirs):.0f}",
        f"{_rate_ratio(rounds):.3g}×",
        spread([ours.per_s / theirs.per_s for ours, theirs in rounds]),
        f"{exact_median(side.p99_ms for side in ours):.3g}",
        f"{exact_median(side.p99_ms for side in theirs):.3g}",
        f"{_p99_ratio(rounds):.2g}×",
    ]


if __name__ == "__main__":
    main()
