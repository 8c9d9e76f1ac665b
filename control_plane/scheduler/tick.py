"""One pass: queues move on, stages begin that runtimes serve; then, of what is due, load, judge, decide, apply."""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from control_plane import failpoints
from control_plane.domain.decision import Decision, decide
from control_plane.domain.errors import ControlPlaneError, Deposed, Frozen, StaleGeneration
from control_plane.domain.readings import Reading
from control_plane.domain.rollout import Command, RolloutId
from control_plane.evidence.aggregate import MomentsReader
from control_plane.evidence.event_log import EventLog
from control_plane.providers.sources import Source
from control_plane.registry import arrivals, freezes, gates, rollouts
from control_plane.registry.session import Sessions
from control_plane.scheduler.applied import SCHEDULER, apply
from control_plane.scheduler.external import NO_SOURCES, External, read_external
from control_plane.scheduler.judged import JUDGED, Judged, judge_all_evidence
from control_plane.scheduler.loaded import Loaded, load_all

logger = logging.getLogger(__name__)

AT_ONCE = 32  # rollouts that share queries; each is settled by itself, the last about a second after it was loaded

SIDE_BY_SIDE = 4  # rollouts that are settled at once: most of that time is waiting for the database and its disk

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    loaded: Loaded
    judged: Judged | None
    decision: Decision


@dataclass(kw_only=True, slots=True)
class TickReport:
    """What one tick did: commands by rollout, checks without a command, and what failed."""

    checked: int = 0
    dequeued: list[RolloutId] = field(default_factory=list)
    commands: dict[RolloutId, Command] = field(default_factory=dict)
    overtaken: list[RolloutId] = field(default_factory=list)
    failed: dict[RolloutId, str] = field(default_factory=dict)


def tick(
    sessions: Sessions,
    log: EventLog,
    *,
    now: datetime,
    live_since: datetime,
    epoch: int | None,
    sources: Mapping[str, Source] = NO_SOURCES,
    on_progress: Callable[[], None] = lambda: None,
) -> TickReport:
    """Check every rollout that is due; one that fails keeps its lease unrenewed and does not stop the others.

    `live_since` is the wall time since when a runtime must have reported to count as live.
    `sources` is where external metrics are read; `on_progress` is called before each rollout. `Deposed` is raised at
    once: another scheduler acts.
    """
    report = TickReport()
    dequeue(sessions, report, now=now, epoch=epoch)
    begin_stages(sessions, now=now, live_since=live_since, epoch=epoch, on_progress=on_progress)
    with sessions.reading() as session:
        due = rollouts.due(session, now=now)
    external = read_external(sessions, sources, due, phases=JUDGED, now=now)
    with MomentsReader(log, on_progress=on_progress) as reader, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for first in range(0, len(due), AT_ONCE):
            loaded = load_all(sessions, due[first : first + AT_ONCE], now=now, live_since=live_since)
            told = _each(report, loaded, lambda one, found: _with_readings(found, external.get(one)))
            judged = judge_all_evidence(reader, told)
            decided = _each(report, judged, partial(_decided, told, now))
            settle = partial(_settle, sessions, now, epoch, on_progress)
            moving, staying = _parted(decided)
            settled = {**_each(report, moving, settle), **_each(report, staying, settle, run=pool.map)}
            report.checked += len(settled)
            report.commands.update((one, command) for one, command in settled.items() if command is not None)
    return report


def dequeue(sessions: Sessions, report: TickReport, *, now: datetime, epoch: int | None) -> None:
    """Let the next in line come to each free surface that no freeze keeps; one that fails does not stop the others."""
    with sessions.reading() as session:
        free = rollouts.free_surfaces(session)
        open_surfaces = [surface for surface in free if freezes.standing(session, surface, now=now) is None]
    for surface in open_surfaces:
        try:
            with sessions.writing() as session:
                rollout = arrivals.dequeue(session, surface, by=SCHEDULER, now=now, epoch=epoch)
        except Deposed:
            raise
        except ControlPlaneError as error:
            logger.warning("the queue of %s could not move on: %s", surface, error)
        else:
            if rollout is not None:
                report.dequeued.append(rollout.rollout_id)


def begin_stages(
    sessions: Sessions,
    *,
    now: datetime,
    live_since: datetime,
    epoch: int | None,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Note the stages that nearly all live runtimes serve by now, whether or not their next check is due."""
    with sessions.reading() as session:
        served = gates.acknowledged_stages(session, live_since=live_since)
    for rollout_id, generation in served.items():
        on_progress()
        try:
            with sessions.writing() as session:
                rollouts.acknowledge(session, rollout_id, seen_generation=generation, at=now, epoch=epoch)
        except Deposed:
            raise
        except ControlPlaneError as error:
            logger.warning("rollout %s: its stage could not begin: %s", rollout_id, error)


def _each(
    report: TickReport,
    some: Mapping[RolloutId, Given],
    step: Callable[[RolloutId, Given], Result],
    *,
    run: Callable[..., Iterable[Result | Exception]] = map,
) -> dict[RolloutId, Result]:
    """What the step gives for each rollout; one that fails is reported and goes no further. `Deposed` is raised."""
    done: dict[RolloutId, Result] = {}
    for rollout_id, came_to in zip(some, run(partial(_attempted, step), some.keys(), some.values()), strict=True):
        match came_to:
            case Deposed():
                raise came_to
            case StaleGeneration() | Frozen():
                report.overtaken.append(rollout_id)  # a person moved while we judged: look again next tick
            case ControlPlaneError():
                logger.warning("rollout %s could not be checked: %s", rollout_id, came_to)
                report.failed[rollout_id] = str(came_to)
            case Exception():
                logger.error("rollout %s could not be checked", rollout_id, exc_info=came_to)
                report.failed[rollout_id] = f"{type(came_to).__name__}: {came_to}"
            case _:
                done[rollout_id] = came_to
    return done


def _attempted(step: Callable[[RolloutId, Given], Result], rollout_id: RolloutId, given: Given) -> Result | Exception:
    try:
        return step(rollout_id, given)
    except Exception as error:
        return error


def _with_readings(loaded: Loaded | Exception, external: External | None) -> tuple[Loaded, tuple[Reading, ...]]:
    if isinstance(loaded, Exception):
        raise loaded
    failpoints.reach("tick.loaded")
    return loaded, () if external is None else external.of(loaded.rollout, generation=loaded.generation)


def _decided(
    told: Mapping[RolloutId, tuple[Loaded, tuple[Reading, ...]]],
    now: datetime,
    rollout_id: RolloutId,
    judged: Judged | Exception | None,
) -> Decided:
    if isinstance(judged, Exception):
        raise judged
    failpoints.reach("tick.judged")
    loaded, _ = told[rollout_id]
    verdict = None if judged is None else judged.verdict
    decision = decide(loaded.rollout, verdict, readiness=loaded.readiness, now=now)
    failpoints.reach("tick.decided")
    return Decided(loaded=loaded, judged=judged, decision=decision)


def _parted(decided: Mapping[RolloutId, Decided]) -> tuple[dict[RolloutId, Decided], dict[RolloutId, Decided]]:
    """Those that a command moves, one after another, as two might need each other's surfaces; and the others."""
    moving = {one: there for one, there in decided.items() if there.decision.command is not None}
    return moving, {one: there for one, there in decided.items() if one not in moving}


def _settle(
    sessions: Sessions,
    now: datetime,
    epoch: int | None,
    on_progress: Callable[[], None],
    rollout_id: RolloutId,
    decided: Decided,
) -> Command | None:
    on_progress()
    command = apply(sessions, decided.loaded, decided.judged, decided.decision, now=now, epoch=epoch)
    failpoints.reach("tick.applied")
    return command
