"""How long it takes until another version serves, while one more loads beside it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.scoring_run.model import LOAD_SECONDS, SURFACE, World, a_split, uris

BETWEEN_SECONDS = 0.002  # so that flips fall on any moment of a load


def flips_ms(world: World, *, flips: int) -> list[float]:
    """Of each flip that fell into a load: from when a split is told until it and its version are what readers get."""
    versions = (world.versions.stable, world.versions.head_only)
    found: list[float] = []
    with loading(world) as is_loading:
        while len(found) < flips:
            time.sleep(BETWEEN_SECONDS)
            versions = versions[::-1]
            chosen = versions[0]
            began_loading, started = is_loading.is_set(), time.perf_counter()
            world.serve(a_split(chosen))
            split = world.engine.table.split(SURFACE)
            version = None if split is None else world.engine.residency.get(split.stable)
            took_ms = (time.perf_counter() - started) * 1e3
            assert version is not None
            assert version.version_id == chosen.version_id
            if began_loading and is_loading.is_set():
                found.append(took_ms)
    return found


@contextmanager
def loading(world: World) -> Iterator[threading.Event]:
    """Load and drop a version that shares nothing with the others, over and over; set while it loads."""
    residency, other = world.engine.residency, uris(world.versions.other)
    is_loading, is_over = threading.Event(), threading.Event()
    problems: list[object] = []

    def load_on() -> None:
        while not is_over.is_set():
            is_loading.set()
            problems.extend(residency.pin(other, timeout_seconds=LOAD_SECONDS).items())
            is_loading.clear()
            residency.unpin(other)

    thread = threading.Thread(target=load_on, name="loads", daemon=True)
    thread.start()
    try:
        yield is_loading
    finally:
        is_over.set()
        thread.join()
    assert not problems, problems
