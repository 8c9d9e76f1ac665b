"""One pass: queues move on, stages begin that runtimes serve; then, of what is due, load, judge, decide, apply."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from control_plane import failpoints
from control_plane.domain.decision import Decision, Readiness, decide, parts_to_quarantine
from control_plane.domain.errors import ControlPlaneError, Deposed, Frozen, StaleGeneration
from control_plane.domain.model_version import Digest, ModelVersion
from control_plane.domain.moments import Health
from control_plane.domain.readings import Reading
from control_plane.domain.rollout import Command, Phase, Rollout, RolloutId, Stage, back_from_home, stage_of
from control_plane.domain.verdict import Verdict
from control_plane.evidence.aggregate import MomentsQuery, MomentsReader
from control_plane.evidence.event_log import EventLog
from control_plane.guardrails.judge import judge
from control_plane.guardrails.replay import pack
from control_plane.providers.sources import Source
from control_plane.registry import arrivals, evidence, freezes, gates, model_versions, rollouts, runtimes, surfaces
from control_plane.registry.session import Sessions
from control_plane.registry.surfaces import SurfaceState
from control_plane.scheduler.external import NO_SOURCES, External, read_external

logger = logging.getLogger(__name__)

SCHEDULER = "scheduler"  # how its changes are signed in the history
JUDGED = frozenset({Phase.SHADOW, Phase.RAMPING, Phase.WATCHING})


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Everything one check needs, read in one session that is closed before anything is computed.

    The rollout is as it will be when its candidate, found at home, comes back: judged without the time it was away.
    A stage that has not begun is judged as if it began now: nothing can be missing from it yet.
    """

    rollout: Rollout
    stage: Stage
    generation: int
    candidate: ModelVersion
    stable: ModelVersion
    proven: frozenset[Digest]  # of the candidate's parts, those that something stable has, too
    readiness: Readiness
    health: Health
    query: MomentsQuery


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    verdict: Verdict
    inputs: bytes


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
    with MomentsReader(log) as reader:
        for rollout_id in due:
            on_progress()
            _check_one(
                report,
                sessions,
                reader,
                rollout_id,
                external.get(rollout_id),
                now=now,
                live_since=live_since,
                epoch=epoch,
            )
    return report


def _check_one(
    report: TickReport,
    sessions: Sessions,
    reader: MomentsReader,
    rollout_id: RolloutId,
    external: External | None,
    *,
    now: datetime,
    live_since: datetime,
    epoch: int | None,
) -> None:
    """Check a rollout, and report what became of it; only `Deposed` is raised."""
    try:
        command = check(sessions, reader, rollout_id, external, now=now, live_since=live_since, epoch=epoch)
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
    else:
        report.checked += 1
        if command is not None:
            report.commands[rollout_id] = command


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


def check(
    sessions: Sessions,
    reader: MomentsReader,
    rollout_id: RolloutId,
    external: External | None,
    *,
    now: datetime,
    live_since: datetime,
    epoch: int | None,
) -> Command | None:
    loaded = load(sessions, rollout_id, now=now, live_since=live_since)
    failpoints.reach("tick.loaded")
    readings = () if external is None else external.of(loaded.rollout, generation=loaded.generation)
    judged = judge_evidence(loaded, reader, readings)
    failpoints.reach("tick.judged")
    verdict = None if judged is None else judged.verdict
    decision = decide(loaded.rollout, verdict, readiness=loaded.readiness, now=now)
    failpoints.reach("tick.decided")
    command = apply(sessions, loaded, judged, decision, now=now, epoch=epoch)
    failpoints.reach("tick.applied")
    return command


def load(sessions: Sessions, rollout_id: RolloutId, *, now: datetime, live_since: datetime) -> Loaded:
    with sessions.reading() as session:
        rollout = rollouts.get(session, rollout_id)
        state = surfaces.get(session, rollout.surface)
        if (home_since := state.home_since(now=now)) is not None:
            rollout = back_from_home(rollout, home_since=home_since, now=now)
        started_at = rollout.started_at if rollout.started_at is not None else rollout.created_at
        candidate = model_versions.get(session, rollout.candidate).manifest.version
        readiness = gates.readiness(session, rollout, now=now, live_since=live_since)
        begun = rollout if rollout.acknowledged_at is not None else replace(rollout, acknowledged_at=now)
        return Loaded(
            rollout=rollout,
            stage=stage_of(begun, generation=state.generation),
            generation=state.generation,
            candidate=candidate,
            stable=model_versions.get(session, rollout.stable).manifest.version,
            proven=model_versions.proven_parts(session, candidate),
            readiness=readiness,
            health=runtimes.health(session, state, rollout.stable, rollout.candidate, live_since=live_since),
            query=MomentsQuery(
                surface=rollout.surface,
                view_types=state.view_types,
                stable=rollout.stable,
                candidate=rollout.candidate,
                shares=surfaces.shares_since(session, rollout.surface, max(1, rollout.first_generation)),
                windows_ms=rollout.plan.windows_ms(),
                revenue_cap=rollout.plan.revenue_cap,
                since_ms=_ms(started_at),
                as_of_ms=max(_ms(started_at), _ms(now - timedelta(seconds=rollout.plan.lateness_seconds))),
                pre_period_days=rollout.plan.judge.pre_period_days,
                salt=state.salt,
                weights_bp=[step.share_bp for step in rollout.plan.steps],
            ),
        )


def judge_evidence(loaded: Loaded, reader: MomentsReader, readings: tuple[Reading, ...] = ()) -> Judged | None:
    """None before the candidate has scored anything, for there is nothing to judge yet."""
    if loaded.rollout.serving_phase not in JUDGED:
        return None
    plan, stage = loaded.rollout.plan, loaded.stage
    evidence_now = reader.moments(loaded.query)
    return Judged(
        verdict=judge(plan, stage, evidence_now, loaded.health, readings),
        inputs=pack(plan, stage, evidence_now, loaded.health, readings),
    )


def apply(
    sessions: Sessions,
    loaded: Loaded,
    judged: Judged | None,
    decision: Decision,
    *,
    now: datetime,
    epoch: int | None,
) -> Command | None:
    """Store the verdict and carry out the decision in one transaction, or neither; return the command that was.

    Where the candidate was found at home, it comes back under a new generation instead. Only a roll back does not
    wait for that.
    """
    rollout = loaded.rollout
    with sessions.writing() as session:
        state = surfaces.get(session, rollout.surface)
        if state.generation != loaded.generation:
            raise StaleGeneration(rollout.surface, seen=loaded.generation, current=state.generation)
        verdict_id = None
        if judged is None:
            rollouts.set_next_check(session, rollout.rollout_id, now, epoch=epoch)
        else:
            verdict_id = evidence.record_verdict(
                session,
                rollout.rollout_id,
                judged.verdict,
                judged.inputs,
                now=now,
                next_check_at=now + timedelta(seconds=rollout.plan.check_seconds),
                epoch=epoch,
            )
        if verdict_id is not None and _comes_back(state, loaded, judged, decision, now):
            rollouts.renew_watch(
                session,
                rollout.rollout_id,
                by=SCHEDULER,
                now=now,
                seen_generation=loaded.generation,
                verdict_id=verdict_id,
                epoch=epoch,
            )
            return None
        if decision.command is not None:
            rollouts.apply_command(
                session,
                rollout.rollout_id,
                decision.command,
                by=SCHEDULER,
                now=now,
                reason=decision.reason,
                seen_generation=loaded.generation,
                verdict_id=verdict_id,
                epoch=epoch,
                quarantine_parts=_quarantine_parts(loaded, judged, decision),
                weight_bp=decision.weight_bp,
            )
    return decision.command


def _comes_back(state: SurfaceState, loaded: Loaded, judged: Judged | None, decision: Decision, now: datetime) -> bool:
    """Whether a check was completed that found the candidate at home, and nothing speaks for leaving it there."""
    is_complete = judged is not None and judged.verdict.completes_check
    stays = decision.command is Command.ROLL_BACK or bool(loaded.readiness.frozen)
    return is_complete and not stays and state.home_since(now=now) is not None


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)


def _quarantine_parts(loaded: Loaded, judged: Judged | None, decision: Decision) -> tuple[str, ...]:
    wanted = loaded.rollout.plan.quarantine_on_rollback
    if judged is None or decision.command is not Command.ROLL_BACK or not wanted:
        return ()
    return parts_to_quarantine(judged.verdict, candidate=loaded.candidate, stable=loaded.stable, proven=loaded.proven)
