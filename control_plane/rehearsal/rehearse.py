"""A plan tried again and again before it is armed: many runs of many scenarios, over processes, resumable.

Run i of every scenario has the same seed, so scenarios are compared on the same users; what a run comes to depends on
plan, audience, scenario and seed alone, never on the number of processes or on interruptions.
"""

import atexit
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from control_plane.domain.errors import InvalidField
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_to_mapping
from control_plane.rehearsal.journal import Journal, Key
from control_plane.rehearsal.results import Result, result_of
from control_plane.rehearsal.run import Run, run
from control_plane.rehearsal.scenarios import Scenario
from control_plane.rehearsal.sources import Source
from control_plane.rehearsal.wishes import expectation

CODE = Path(__file__).parents[1]  # of what runs depend on: the packages below
PACKAGES = ("domain", "guardrails", "rehearsal")
THREADS_OF_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LOOKS_PER_DAY = (1, 2, 3, 4, 6, 8, 12, 24, 48, 96)  # whole hours or quarters of one, so that no label straddles a look
HEED_SECONDS = 0.2  # until Ctrl-C is answered
WAITING_PER_JOB = 4  # tasks given out at once: enough to keep a process busy, few enough to stop soon


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What every run depends on beside its scenario."""

    plan: RolloutPlan
    source: Source
    seed: int
    looks_per_day: int

    def __post_init__(self) -> None:
        check_looks(self.looks_per_day)

    def identity(self) -> dict[str, str]:
        """By name, what a journal's runs must agree in."""
        return {
            "plan": self.plan.name,
            "plan_digest": _digest(plan_to_mapping(self.plan)),
            "traffic": _digest(self.source.describe()),
            "seed": str(self.seed),
            "looks_per_day": str(self.looks_per_day),
            "code": code_digest(),
        }

    def run(self, scenario: Scenario, number: int) -> Run:
        seed = np.random.SeedSequence(self.seed, spawn_key=(number,))
        traffic = self.source.stream(self.plan, scenario, seed)
        return run(self.plan, traffic, started_at_ms=self.source.started_at_ms, looks_per_day=self.looks_per_day)


def rehearse(
    trial: Trial,
    scenarios: Sequence[Scenario],
    *,
    runs: int,
    jobs: int = 1,
    journal: Journal | None = None,
    on_run: Callable[[Scenario], None] = lambda _: None,
) -> tuple[Result, ...]:
    """Try the plan `runs` times under each scenario; `on_run` hears of each run that is done, now or before."""
    if runs < 1 or jobs < 1:
        raise ValueError(f"runs and jobs must be 1 or more, not {runs} and {jobs}")
    tasks = [(scenario, number) for number in range(runs) for scenario in scenarios]
    keys = {scenario.name: _digest(_described(scenario)) for scenario in scenarios}
    done: dict[Key, Run] = {}
    missing = []
    for scenario, number in tasks:
        key = keys[scenario.name], number
        if journal is not None and key in journal.done:
            done[key] = journal.done[key]
            on_run(scenario)
        else:
            missing.append((scenario, number))
    for scenario, number, found in _run_all(trial, missing, jobs):
        key = keys[scenario.name], number
        done[key] = found
        if journal is not None:
            journal.add(key, found)
        on_run(scenario)
    return tuple(
        result_of(
            scenario,
            expectation(trial.plan, scenario, view_shares=trial.source.view_shares),
            [done[keys[scenario.name], number] for number in range(runs)],
            view_shares=trial.source.view_shares,
        )
        for scenario in scenarios
    )


def check_looks(looks_per_day: int) -> None:
    if looks_per_day not in LOOKS_PER_DAY:
        known = ", ".join(map(str, LOOKS_PER_DAY))
        raise InvalidField("looks_per_day", f"must part a day evenly ({known}), not {looks_per_day}")


@cache
def code_digest() -> str:
    """Of the code that runs depend on; other code may judge differently."""
    digest = hashlib.sha256(np.__version__.encode())
    for package in PACKAGES:
        for path in sorted((CODE / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run_all(trial: Trial, tasks: Sequence[tuple[Scenario, int]], jobs: int) -> Iterator[tuple[Scenario, int, Run]]:
    if jobs == 1 or len(tasks) < 2:
        for scenario, number in tasks:
            yield scenario, number, trial.run(scenario, number)
        return
    for name in THREADS_OF_LIBRARIES:  # read when a process loads the library: one thread each, or they fight for cores
        os.environ.setdefault(name, "1")
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(trial,)
    )
    try:
        with _ctrl_c_noted() as has_come:
            yield from _gathered(pool, tasks, jobs * WAITING_PER_JOB, has_come)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gathered(
    pool: ProcessPoolExecutor, tasks: Sequence[tuple[Scenario, int]], at_once: int, has_come: threading.Event
) -> Iterator[tuple[Scenario, int, Run]]:
    left = iter(tasks)
    waiting: dict[Future[Run], tuple[Scenario, int]] = {}
    while True:
        if has_come.is_set():
            raise KeyboardInterrupt
        with _deaf_to_ctrl_c():  # workers begin here and inherit it: Ctrl-C is the parent's to answer
            while len(waiting) < at_once and (task := next(left, None)) is not None:
                waiting[pool.submit(_run_here, *task)] = task
        if not waiting:
            return
        finished, _ = wait(waiting, timeout=HEED_SECONDS, return_when=FIRST_COMPLETED)
        for future in finished:
            yield *waiting.pop(future), future.result()


@contextmanager
def _ctrl_c_noted() -> Iterator[threading.Event]:
    """An event instead of an exception: raised within `wait` it would leave locks that the pool then waits for."""
    has_come = threading.Event()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield has_come
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: has_come.set())
    try:
        yield has_come
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Blocked, not ignored: one that comes meanwhile is answered afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_trial: Trial  # of this process


def _begin(trial: Trial) -> None:
    global _trial
    _trial = trial
    atexit.register(os._exit, 0)  # nothing here needs tidying up, and libraries complain of threads that still run
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent leaves its pool waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        with suppress(OSError):
            parent.join()
        os._exit(1)


def _run_here(scenario: Scenario, number: int) -> Run:
    return _trial.run(scenario, number)


def _described(scenario: Scenario) -> dict[str, object]:
    return {"effects": asdict(scenario.effects), "faults": asdict(scenario.faults)}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
