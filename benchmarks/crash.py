"""Processes killed with -9 at random moments and at every failpoint, on SQLite and PostgreSQL: what was violated?

Replicas of API and scheduler, and a runtime, die and are stopped over and over while people create rollouts and
releases, command, roll back, quarantine and freeze over HTTP, on a clock that runs 300 times as fast, with recorded
evidence before the real judge. After each death a checker reads the database alone; `benchmarks/crash_run/` has what it
looks for. Both databases have their storm at the same time, until both together had the deaths that are asked for.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy: a dozen processes share the machine's cores

from benchmarks.crash_run import postgres, takeover
from benchmarks.crash_run.registry import opened
from benchmarks.crash_run.storm import Storm, Toll
from benchmarks.crash_run.takeover import Strike, Takeovers
from benchmarks.crash_run.victim import RANDOM
from benchmarks.crash_run.violation import Violation
from benchmarks.report import report
from control_plane.failpoints import POINTS
from control_plane.registry.session import Sessions

MAX_SHOWN = 20  # violations that are told one by one


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    kills: int  # over both databases
    each_point: int  # of each
    patience_seconds: float
    strikes: Mapping[str, Sequence[Strike]]  # by database, of which takeovers are measured


# A writer that stands still keeps SQLite's one lock, so there none is stopped within a transaction.
TWICE = (Strike.KILL, Strike.STOP) * 2
FULL = Effort(
    kills=1_040,
    each_point=5,
    patience_seconds=720,
    strikes={"sqlite": TWICE, "postgresql": (*TWICE, Strike.STOP_IN_TRANSACTION)},
)
QUICK = Effort(
    kills=50, each_point=1, patience_seconds=12, strikes={"sqlite": (Strike.KILL,), "postgresql": (Strike.STOP,)}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few kills, a takeover of each kind: not a claim")
    parser.add_argument("--patience", type=float, help="seconds for the storms, if their kills take longer")
    parser.add_argument("--seed", type=int, default=1, help="of what is random in the storm; the moments are not")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    if arguments.patience:
        effort = replace(effort, patience_seconds=arguments.patience)
    with tempfile.TemporaryDirectory(prefix="surefoot-crash-") as root, postgres.databases("storm", "takeover") as urls:
        storms = _opened(Path(root), "storm", urls[0])
        struck = _opened(Path(root), "takeover", urls[1])
        with ThreadPoolExecutor(1) as beside:
            measured = beside.submit(_takeovers, struck, effort) if arguments.quick else None
            tolls = _tolls(storms, effort, arguments.seed)
            takeovers = measured.result() if measured else _takeovers(struck, effort)
    _tell_problems(tolls, takeovers)
    report(
        "crash",
        columns=("killed at", *tolls),
        rows=_rows(tolls, takeovers),
        figures={**_figures(tolls, takeovers), "is_quick": float(arguments.quick)},
    )
    sys.exit(1 if any(toll.violations for toll in tolls.values()) else 0)


def _opened(root: Path, name: str, postgres_url: str) -> dict[str, Sessions]:
    urls = {"sqlite": f"sqlite:///{root / name}.db", "postgresql": postgres_url}
    return {database: opened(url) for database, url in urls.items()}


def _tolls(storms: Mapping[str, Sessions], effort: Effort, seed: int) -> dict[str, Toll]:
    """Of both storms at the same time; each goes on until they have enough together."""
    with tempfile.TemporaryDirectory(prefix="surefoot-crash-") as root, _bars(effort.kills) as on_kill_of:
        blowing = [Storm(storms[name], _made(Path(root) / name), seed=seed) for name in storms]

        def run(name: str, storm: Storm) -> Toll:
            return storm.run(
                each_point=effort.each_point,
                patience_seconds=effort.patience_seconds,
                on_kill=on_kill_of(name),
                is_enough=lambda: sum(storm.toll.all_kills for storm in blowing) >= effort.kills,
            )

        with ThreadPoolExecutor(len(blowing)) as together:
            return dict(zip(storms, together.map(run, storms, blowing), strict=True))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _takeovers(struck: Mapping[str, Sessions], effort: Effort) -> dict[str, Takeovers]:
    """With the shipped settings, on both databases at the same time."""
    with ThreadPoolExecutor(len(struck)) as together:
        found = together.map(lambda name: takeover.measure(struck[name], effort.strikes[name]), struck)
        return dict(zip(struck, found, strict=True))


@contextmanager
def _bars(kills: int) -> Iterator[Callable[[str], Callable[[Toll], None]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def on_kill_of(name: str) -> Callable[[Toll], None]:
            task = progress.add_task(name, total=kills, told="")
            shown: list[Violation] = []

            def on_kill(toll: Toll) -> None:
                for violation in toll.violations[len(shown) :]:
                    progress.console.print(f"VIOLATION on {name}: {violation}", markup=False)
                    shown.append(violation)
                told = f"{toll.all_kills} kills, {len(toll.violations)} violations"
                progress.update(task, completed=toll.all_kills, told=told)

            return on_kill

        yield on_kill_of


def _rows(tolls: Mapping[str, Toll], takeovers: Mapping[str, Takeovers]) -> list[tuple[str, ...]]:
    def killed_at(point: str) -> tuple[str, ...]:
        return point, *(str(toll.kills[point]) for toll in tolls.values())

    def row(what: str, of: Callable[[Toll], object]) -> tuple[str, ...]:
        return what, *(str(of(toll)) for toll in tolls.values())

    def seconds(what: str, of: Callable[[Takeovers], list[float]]) -> tuple[str, ...]:
        cells = [of(takeovers[name]) for name in tolls]
        return what, *(" / ".join(f"{value:.1f}" for value in cell) for cell in cells)

    return [
        *(killed_at(point) for point in (*sorted(POINTS), RANDOM)),
        row("all kills", lambda toll: toll.all_kills),
        row("of them runtimes", lambda toll: toll.runtimes),
        row("stopped and let go on", lambda toll: toll.stops),
        row("ended by themselves", lambda toll: toll.gave_up.total()),
        row("schedulers that wrote, by epoch", lambda toll: toll.epochs),
        row("changes checked", lambda toll: toll.transitions),
        row("of them made for what is above in a release", lambda toll: toll.followed),
        row("raises between steps", lambda toll: toll.raises),
        row("verdicts replayed", lambda toll: toll.verdicts),
        row("requests acknowledged", lambda toll: toll.answers["acknowledged"]),
        row("requests refused", lambda toll: toll.answers["refused"]),
        row("requests never answered", lambda toll: toll.answers["cut off"]),
        row("webhooks received", lambda toll: toll.webhooks),
        row("violations", lambda toll: len(toll.violations)),
        row("seconds", lambda toll: round(toll.seconds)),
        seconds("takeover after a kill, s", lambda found: found.after_kill),
        seconds("takeover after a stop, s", lambda found: found.after_stop),
        seconds("takeover after a stop in a transaction, s", lambda found: found.after_stop_in_transaction),
    ]


def _figures(tolls: Mapping[str, Toll], takeovers: Mapping[str, Takeovers]) -> dict[str, float]:
    return {
        "kills": sum(toll.all_kills for toll in tolls.values()),
        "transitions": sum(toll.transitions for toll in tolls.values()),
        "violations": sum(len(toll.violations) for toll in tolls.values()),
        "takeover_s_kill": max(value for found in takeovers.values() for value in found.after_kill),
        "takeover_s_pause": max(
            value for found in takeovers.values() for value in (*found.after_stop, *found.after_stop_in_transaction)
        ),
        "verdicts_replayed": sum(toll.verdicts for toll in tolls.values()),
        "stops": sum(toll.stops for toll in tolls.values()),
        "failpoints_reached": min(sum(toll.kills[point] > 0 for point in POINTS) for toll in tolls.values()),
    }


def _tell_problems(tolls: Mapping[str, Toll], takeovers: Mapping[str, Takeovers]) -> None:
    for name, toll in tolls.items():
        for code, times in toll.gave_up.items():
            print(f"{name}: ended by itself with exit code {code} ({times} times)")
        for violation in toll.violations[:MAX_SHOWN]:
            print(f"VIOLATION on {name}: {violation}")
        for problem, times in Counter(toll.problems).most_common(MAX_SHOWN):
            print(f"{name}: {problem} ({times} times)")
    for name, found in takeovers.items():
        for problem in found.problems:
            print(f"VIOLATION on {name}: {problem}")


if __name__ == "__main__":
    main()
