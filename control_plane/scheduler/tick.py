"""One pass: queues move on, stages begin that runtimes serve; then, of what is due, load, judge, decide, apply."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from control_plane import failpoints
from control_plane.domain.decision import decide
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

Given = TypeVar("Given")
Result = TypeVar("Result")


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
    with MomentsReader(log, on_progress=on_progress) as reader:
        for first in range(0, len(due), AT_ONCE):
            loaded = load_all(sessions, due[first : first + AT_ONCE], now=now, live_since=live_since)
            told = _each(report, loaded, lambda one, found: _with_readings(found, external.get(one)))
            judged = judge_all_evidence(reader, told)
            settled = _each(report, judged, partial(_settle, sessions, told, now, epoch, on_progress))
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
    report: TickReport, some: Mapping[RolloutId, Given], step: Callable[[RolloutId, Given], Result]
) -> dict[RolloutId, Result]:
    """What the step gives for each rollout; one that fails is reported and goes no further. `Deposed` is raised."""
    done: dict[RolloutId, Result] = {}
    for rollout_id, given in some.items():
        try:
            done[rollout_id] = step(rollout_id, given)
        except Deposed:
            raise
        except (StaleGeneration, Frozen):
            report.overtaken.append(rollout_id)  # a person moved while we judged: look again next tick
        except ControlPlaneError as error:
            logger.warning("rollout %s could not be checked: %s", rollout_id, error)
            report.failed[rollout_id] = str(error)
        except Exception as error:
            logger.exception("rollout %s could not be checked", rollout_id)
            report.failed[rollout_id] = f"{type(error).__name__}: {error}"
    return done


def _with_readings(loaded: Loaded | Exception, external: External | None) -> tuple[Loaded, tuple[Reading, ...]]:
    if isinstance(loaded, Exception):
        raise loaded
    failpoints.reach("tick.loaded")
    return loaded, () if external is None else external.of(loaded.rollout, generation=loaded.generation)


def _settle(
    sessions: Sessions,
    told: Mapping[RolloutId, tuple[Loaded, tuple[Reading, ...]]],
    now: datetime,
    epoch: int | None,
    on_progress: Callable[[], None],
    rollout_id: RolloutId,
    judged: Judged | Exception | None,
) -> Command | None:
    """Decide, and apply what was decided."""
    on_progress()
    if isinstance(judged, Exception):
        raise judged
    failpoints.reach("tick.judged")
    loaded, _ = told[rollout_id]
    verdict = None if judged is None else judged.verdict
    decision = decide(loaded.rollout, verdict, readiness=loaded.readiness, now=now)
    failpoints.reach("tick.decided")
    command = apply(sessions, loaded, judged, decision, now=now, epoch=epoch)
    failpoints.reach("tick.applied")
    return command
