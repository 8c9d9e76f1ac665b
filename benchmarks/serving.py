"""The same model and load behind this project's server and behind MLServer, LitServe and Ray Serve, one peer at a time.

Each peer stands in an environment of its own under .bench/, made when it is missing, and is measured twice: as its
own documents show, and with this project's forward inside. Then, what a shadow costs this project's own answers.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.serving_run import environments, tune
from benchmarks.serving_run.feed import Feed, feed
from benchmarks.serving_run.figures import row, show
from benchmarks.serving_run.model import SURFACE, Exported, export_version, pages
from benchmarks.serving_run.rounds import LARGE, SMALL, Bench, Pairs, Up, bench, in_turn
from benchmarks.serving_run.servers import PEERS, Peer, Server, Surefoot, check, free_port, started
from benchmarks.serving_run.shadow import Shadowed, ShadowRounds
from benchmarks.serving_run.wire import load as load_artifact
from control_plane.domain.split import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    rounds: int
    seconds: float  # of each side, in each round, for each load
    shadow_rounds: int
    shadow_seconds: float


FULL = Size(rounds=7, seconds=1.5, shadow_rounds=8, shadow_seconds=4.0)
QUICK = Size(rounds=1, seconds=0.3, shadow_rounds=1, shadow_seconds=1.5)
QUICK_PEERS = ("litserve",)  # it starts the soonest: all of them take longer than a quick run may


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round beside one peer")
    parser.add_argument("--only", nargs="+", metavar="PEER", choices=environments.PEERS, help="beside these alone")
    parser.add_argument("--seconds", type=float, help="of each side, in each round, for each load")
    parser.add_argument(
        "--tune", action="store_true", help="try the peers' settings instead, and print what each gives"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers leave with it
    wanted = given.only or (QUICK_PEERS if given.quick else environments.PEERS)
    missing = install(wanted)
    peers = [peer for peer in PEERS if peer.environment_name in wanted and peer.environment_name not in missing]
    with tempfile.TemporaryDirectory(prefix="surefoot-serving-") as folder:
        if given.tune:
            with world(Path(folder)) as made:
                tune.show(made.bench, made.stable, made.folder, peers)
            return
        size = QUICK if given.quick else FULL
        found = run(Path(folder), peers, replace(size, seconds=given.seconds or size.seconds))
    show(found.compared, found.shadowed, missing={**missing, **found.failures})


def install(wanted: Sequence[str]) -> Mapping[str, str]:
    """Make what is missing; why a peer cannot be had, by its name."""
    problems = {}
    for peer in wanted:
        if not environments.is_installed(peer):
            try:
                environments.install(peer)
            except environments.CannotInstall as error:
                problems[peer] = str(error)
    return problems


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """All that is there before a server is."""

    folder: Path
    bench: Bench
    feed: Feed
    stable: Exported
    candidate: Exported


@contextmanager
def world(folder: Path) -> Iterator[World]:
    stable, candidate = (export_version(folder / f"artifact-{seed}", seed=seed) for seed in (1, 2))
    with bench(folder) as ready, feed() as told:
        split = Split(surface=SURFACE, generation=1, salt="benchmark", stable=stable.version_id)
        told.serve(split, {stable.version_id: str(stable.folder)})
        yield World(folder=folder, bench=ready, feed=told, stable=stable, candidate=candidate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """`failures` says what became of a peer that did not come to its end, by its name."""

    compared: Mapping[str, Pairs]
    failures: Mapping[str, str]
    shadowed: Shadowed


def run(folder: Path, peers: Sequence[type[Peer]], size: Size) -> Found:
    compared: dict[str, Pairs] = {}
    failures: dict[str, str] = {}
    with world(folder) as made:
        with our_server(made) as ours:
            for peer in peers:
                try:
                    compared[peer.name] = beside(made, ours, peer, size)
                except RuntimeError as error:
                    tell(f"{peer.name}: {error}")
                    failures[peer.name] = str(error)
        with our_server(made, is_shown=True) as ours:
            assert isinstance(ours.server, Surefoot)
            rounds = ShadowRounds(made.bench, ours.server, made.feed, stable=made.stable, candidate=made.candidate)
            tell("shadow")
            shadowed = rounds.run(rounds=size.shadow_rounds, seconds=size.shadow_seconds)
    return Found(compared=compared, failures=failures, shadowed=shadowed)


def beside(made: World, ours: Up, peer: type[Peer], size: Size) -> Pairs:
    """All rounds of one peer, which alone stands beside our server meanwhile."""
    began = time.monotonic()
    server = peer(free_port(), made.folder / peer.name.replace(" ", "-"), made.stable)
    with started(server) as processes:
        checked(made, server)
        up_after = time.monotonic() - began
        loads = (*LARGE, SMALL) if server.is_broadcast else LARGE
        theirs = Up(server=server, processes=processes)
        pairs = in_turn(made.bench, ours, theirs, loads, rounds=size.rounds, seconds=size.seconds)
    tell(f"{peer.name}: up after {up_after:.0f} s, measured after {time.monotonic() - began:.0f} s")
    for load, of_load in pairs.items():
        print("  ".join(row(peer.name, load, of_load)), flush=True)
    return pairs


@contextmanager
def our_server(made: World, *, is_shown: bool = False) -> Iterator[Up]:
    folder = made.folder / f"surefoot-{int(is_shown)}"
    server = Surefoot(free_port(), folder, made.stable, feed_url=made.feed.url, is_shown=is_shown)
    with started(server) as processes:
        checked(made, server)
        yield Up(server=server, processes=processes)


def checked(made: World, server: Server) -> None:
    (page,) = pages(1, rows=500, seed=1)
    check(server, page, load_artifact(str(made.stable.folder)).score(page.batch))


def tell(what: str) -> None:
    print(f"{what}; load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
