"""The writer: every change of what serves goes through here, whole or not at all, in the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane.domain.errors import (
    AlreadyExists,
    IllegalTransition,
    InvalidField,
    MissingVerdict,
    NoSafeVersion,
    SurfaceBusy,
    UnknownName,
)
from control_plane.domain.model_version import Digest, Part, Surface, VersionId, ViewType, check_digest, check_name
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import ACTIVE, Command, Phase, Rollout, RolloutId, apply
from control_plane.domain.surface_graph import Edge, Progress
from control_plane.domain.verdict import Outcome
from control_plane.registry import (
    changes,
    history,
    leases,
    model_versions,
    releases,
    rollout_rows,
    runtimes,
    surfaces,
)
from control_plane.registry import (
    quarantine as quarantines,
)
from control_plane.registry.changes import Cause
from control_plane.registry.quarantine import QuarantinedDigest
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import RolloutRow, SurfaceRow, VerdictRow

CREATE_SURFACE, ADOPT, CREATE = "create_surface", "adopt", "create"  # in the history, beside `Command`s
GOING_HOME = frozenset({Command.ROLL_BACK.value, Command.ABORT.value, quarantines.COMMAND})
NEEDS_EVIDENCE = frozenset({Phase.SHADOW, Phase.RAMPING, Phase.WATCHING})


def create_surface(
    session: Session, surface: Surface, view_types: Sequence[ViewType], *, by: str, now: datetime
) -> SurfaceState:
    """Make a surface, at generation 0; making it again with the same view types changes nothing."""
    _check_surface(surface, view_types)
    known = session.get(SurfaceRow, surface, populate_existing=True)
    if known is not None:
        if list(known.view_types) != list(view_types):
            raise AlreadyExists("surface", surface)
        return surfaces.state_of(known)
    row = SurfaceRow(
        surface=surface,
        view_types=list(view_types),
        generation=0,
        candidate_bp=0,
        shadow_sample_bp=0,
        salt=f"{surface}/stable",
        changed_at=now,
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:  # PostgreSQL: made by someone else in this very moment
        raise AlreadyExists("surface", surface) from error
    state = surfaces.state_of(row)
    changes.begin_history(session, state, Cause(command=CREATE_SURFACE, by=by, reason="", now=now))
    return state


def adopt(
    session: Session,
    surface: Surface,
    version_id: VersionId,
    *,
    seen_generation: int | None,
    by: str,
    reason: str,
    now: datetime,
) -> SurfaceState:
    """Set stable by hand; what was stable becomes the last proven. Adopting what is stable changes nothing.

    Raises:
        SurfaceBusy, StaleGeneration, UnknownName, Quarantined.
    """
    before = changes.lock_one(session, surface)
    if before.stable == version_id:
        return before
    changes.check_seen(before, seen_generation)
    _refuse_busy(before)
    model_versions.check_may_serve(session, version_id, surface)
    after = replace(before, stable=version_id, last_proven=before.stable)
    return changes.change(session, before, after, Cause(command=ADOPT, by=by, reason=reason, now=now))


def create(
    session: Session,
    surface: Surface,
    candidate: VersionId,
    plan: RolloutPlan,
    *,
    by: str,
    now: datetime,
    release_id: int | None = None,
) -> Rollout:
    """Make a pending rollout, due at once; it starts from nothing, whatever other digests have shown.

    Raises:
        SurfaceBusy, NoSafeVersion (nothing is stable yet), UnknownName, Quarantined (also if once taken back).
    """
    before = changes.lock_one(session, surface)
    _refuse_busy(before)
    if before.stable is None:
        raise NoSafeVersion(surface)
    if candidate == before.stable:
        raise InvalidField("candidate", f"{candidate} is {surface}'s stable version already")
    model_versions.check_may_serve(session, candidate, surface)
    rollout = rollout_rows.insert(
        session, surface, stable=before.stable, candidate=candidate, plan=plan, by=by, now=now, release_id=release_id
    )
    cause = Cause(command=CREATE, by=by, reason="", now=now)
    changes.change(session, before, replace(before, rollout_id=rollout.rollout_id), cause, becomes=rollout)
    return rollout


def apply_command(
    session: Session,
    rollout_id: RolloutId,
    command: Command,
    *,
    by: str,
    now: datetime,
    reason: str = "",
    seen_generation: int | None = None,
    verdict_id: int | None = None,
    epoch: int | None = None,
    quarantine_parts: Sequence[Part | str] = (),
) -> Rollout:
    """Carry out a command, or change nothing.

    A person's roll back is never refused as stale. What is asked for twice happens once. `quarantine_parts` of
    the candidate that stable does not share are quarantined on every surface together with a roll back;
    if another surface has nothing to fall back to, the roll back happens without, and the history says so.

    Raises:
        Deposed: `epoch` is not the scheduler lease's present one.
        StaleGeneration: the surface is not at `seen_generation`.
        MissingVerdict: the candidate would gain weight without a passing verdict or a person's reason.
        IllegalTransition, UnknownName, Quarantined, NoSafeVersion.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    surface = rollout_rows.load(session, rollout_id).surface
    states = changes.lock(session, None if quarantine_parts else [surface])
    rollout = rollout_rows.load(session, rollout_id)
    before = states[surface]
    if _has_happened(rollout, command):
        return rollout
    if command is not Command.ROLL_BACK or epoch is not None:
        changes.check_seen(before, seen_generation)
    becomes = apply(rollout, command, now=now, by=by)
    if becomes == rollout:
        return rollout
    cause = Cause(command=command.value, by=by, reason=reason, now=now, verdict_id=verdict_id)
    match command:
        case Command.ROLL_BACK | Command.ABORT:
            return _go_home(session, states, rollout, becomes, cause, quarantine_parts)
        case Command.ADVANCE if rollout.phase in NEEDS_EVIDENCE:
            _check_evidence(session, rollout_id, before, cause, is_person=epoch is None)
        case _:
            pass
    if command in (Command.START, Command.ADVANCE, Command.RESUME):
        model_versions.check_may_serve(session, rollout.candidate, surface)
    return _go_on(session, before, rollout, becomes, cause)


def roll_back_surface(session: Session, surface: Surface, *, by: str, reason: str, now: datetime) -> SurfaceState:
    """Roll back the active rollout or, if there is none, stable to the last proven version.

    Pressed again it changes nothing, so that two people who press at once do not go back two versions; to go
    further, adopt a version by hand.
    """
    state = changes.lock_one(session, surface)
    if state.rollout_id is None and history.last_command(session, surface) in GOING_HOME:
        return state
    rollout_id = state.rollout_id
    if rollout_id is None and state.stable is not None:
        done = rollout_rows.latest_done_with(session, surface, state.stable)
        rollout_id = None if done is None else done.rollout_id
    if rollout_id is not None:
        apply_command(session, rollout_id, Command.ROLL_BACK, by=by, now=now, reason=reason)
        return surfaces.get(session, surface)
    after = replace(state, stable=quarantines.fallback(session, state), last_proven=None)
    assert state.stable is not None
    model_versions.mark_aborted(session, state.stable, now=now, because=reason)
    return changes.change(session, state, after, Cause(command=Command.ROLL_BACK.value, by=by, reason=reason, now=now))


def quarantine(
    session: Session, digest: Digest, *, by: str, reason: str, now: datetime, epoch: int | None = None
) -> tuple[Surface, ...]:
    """Bar a digest from serving; return the surfaces that moved off it, all of them or none.

    Raises:
        NoSafeVersion: a surface has nothing to fall back to; nothing was changed anywhere.
        UnknownName: no version has such a part.
    """
    if epoch is not None:
        leases.check(session, leases.SCHEDULER, epoch)
    check_digest("digest", digest)
    states = changes.lock(session)
    if not model_versions.versions_with(session, [digest]):
        raise UnknownName("digest", digest)
    moves = quarantines.plan_moves(session, states, [digest])
    quarantines.confine(session, [digest], by=by, reason=reason, now=now)
    for move in moves:
        quarantines.carry_out(session, move, Cause(command=quarantines.COMMAND, by=by, reason=reason, now=now))
    return tuple(move.before.surface for move in moves)


def release_quarantine(session: Session, digest: Digest, *, by: str, reason: str, now: datetime) -> None:
    """Let a digest serve again; nothing that moved off it comes back by itself."""
    changes.lock(session)
    quarantines.release(session, digest, by=by, reason=reason, now=now)


def list_quarantined(session: Session) -> list[QuarantinedDigest]:
    return quarantines.list_quarantined(session)


def get(session: Session, rollout_id: RolloutId) -> Rollout:
    return rollout_rows.load(session, rollout_id)


def list_rollouts(
    session: Session, *, surface: Surface | None = None, release_id: int | None = None, active_only: bool = False
) -> list[Rollout]:
    """The newest first."""
    query = select(RolloutRow).order_by(RolloutRow.rollout_id.desc())
    if surface is not None:
        query = query.where(RolloutRow.surface == surface)
    if release_id is not None:
        query = query.where(RolloutRow.release_id == release_id)
    if active_only:
        query = query.where(RolloutRow.phase.in_([phase.value for phase in ACTIVE]))
    return [rollout_rows.rollout_of(row) for row in session.scalars(query.execution_options(populate_existing=True))]


def due(session: Session, *, now: datetime) -> list[RolloutId]:
    """Active rollouts whose next check is not in the future, the longest overdue first."""
    found = session.scalars(
        select(RolloutRow.rollout_id)
        .where(RolloutRow.next_check_at <= now, RolloutRow.phase.in_([phase.value for phase in ACTIVE]))
        .order_by(RolloutRow.next_check_at, RolloutRow.rollout_id)
    )
    return [RolloutId(rollout_id) for rollout_id in found]


def set_next_check(session: Session, rollout_id: RolloutId, at: datetime) -> None:
    row = rollout_rows.row_of(session, rollout_id)
    if row.next_check_at is not None:  # a finished rollout is checked no more
        row.next_check_at = at
        session.flush()


def create_release(
    session: Session,
    candidates: Mapping[Surface, VersionId],
    plan: RolloutPlan,
    edges: Sequence[Edge],
    *,
    by: str,
    now: datetime,
) -> int:
    """Make one pending rollout a surface, all of them or none, tied together by `edges`; return the release's id."""
    release_id = releases.insert(session, edges, list(candidates), by=by, now=now)
    changes.lock(session, list(candidates))
    for surface in sorted(candidates):
        create(session, surface, candidates[surface], plan, by=by, now=now, release_id=release_id)
    return release_id


def release_edges(session: Session, release_id: int) -> tuple[Edge, ...]:
    return releases.edges(session, release_id)


def progress(session: Session, release_id: int, *, now: datetime) -> dict[Surface, Progress]:
    """How far each surface of a release is, for `surface_graph.blocked_by`."""
    return releases.progress(session, release_id)


def _check_surface(surface: str, view_types: Sequence[str]) -> None:
    try:
        check_name("surface", surface)
        for index, view_type in enumerate(view_types):
            check_name(f"view_types[{index}]", view_type)
    except InvalidField as error:
        raise InvalidField(error.field, error.rule) from None
    if not view_types:
        raise InvalidField("view_types", "must name at least one")
    if len(set(view_types)) != len(view_types):
        raise InvalidField("view_types", "must not repeat")


def _refuse_busy(state: SurfaceState) -> None:
    if state.rollout_id is not None:
        raise SurfaceBusy(state.surface, state.rollout_id)


def _has_happened(rollout: Rollout, command: Command) -> bool:
    """Whether a repeated command, perhaps with the generation of its first time, has nothing left to do."""
    match command:
        case Command.ROLL_BACK | Command.ABORT:
            return rollout.phase is Phase.ROLLED_BACK
        case Command.HOLD:
            return rollout.phase is Phase.HELD
        case _:
            return False


def _check_evidence(
    session: Session, rollout_id: RolloutId, state: SurfaceState, cause: Cause, *, is_person: bool
) -> None:
    if is_person and cause.reason.strip():
        return
    verdict = None if cause.verdict_id is None else session.get(VerdictRow, cause.verdict_id)
    if (
        verdict is None
        or verdict.rollout_id != rollout_id
        or verdict.outcome != Outcome.ADVANCE.value
        or verdict.generation != state.generation
    ):
        raise MissingVerdict(rollout_id)


def _go_on(session: Session, before: SurfaceState, rollout: Rollout, becomes: Rollout, cause: Cause) -> Rollout:
    """Any change but the way home."""
    generation = before.generation + 1
    if cause.command == Command.START:
        becomes = replace(becomes, first_generation=generation, stage_generation=generation)
        _note_start(session, becomes)
    elif cause.command == Command.ADVANCE:
        becomes = replace(becomes, stage_generation=generation)
    rollout_rows.store(session, becomes, now=cause.now)
    if cause.command in (Command.START, Command.RESUME):
        set_next_check(session, becomes.rollout_id, cause.now)
    changes.change(session, before, _surface_with(before, becomes, cause), cause, was=rollout, becomes=becomes)
    return becomes


def _surface_with(before: SurfaceState, rollout: Rollout, cause: Cause) -> SurfaceState:
    """The surface as the rollout's serving phase wants it. An advance that gives weight begins a watch anew."""
    base = replace(before.without_candidate(), rollout_id=rollout.rollout_id)
    match rollout.serving_phase:
        case Phase.PENDING:
            return base
        case Phase.WARMING | Phase.SHADOW:
            salt = f"{before.surface}/rollout/{rollout.rollout_id}"
            return replace(base, shadow=rollout.candidate, shadow_sample_bp=rollout.shadow_sample_bp, salt=salt)
        case Phase.RAMPING | Phase.WATCHING:
            return replace(
                base,
                candidate=rollout.candidate,
                candidate_bp=rollout.candidate_bp,
                unwatched_seconds=rollout.plan.unwatched_seconds,
                lease_renewed_at=cause.now if cause.command == Command.ADVANCE else before.lease_renewed_at,
            )
        case Phase.DONE:
            return replace(base, rollout_id=None, stable=rollout.candidate, last_proven=before.stable)
        case Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
            raise AssertionError(f"{rollout.serving_phase} is no serving phase of a rollout that goes on")


def _note_start(session: Session, rollout: Rollout) -> None:
    """Counts up to here are no evidence about this rollout."""
    row = rollout_rows.row_of(session, rollout.rollout_id)
    row.counts_at_start = {
        version: runtimes.total_counts(session, version) for version in (rollout.stable, rollout.candidate)
    }
    session.flush()


def _go_home(
    session: Session,
    states: Mapping[Surface, SurfaceState],
    rollout: Rollout,
    becomes: Rollout,
    cause: Cause,
    quarantine_parts: Sequence[Part | str],
) -> Rollout:
    before = states[rollout.surface]
    after = before.without_candidate()
    if rollout.phase is Phase.DONE:
        _refuse_busy(before)
        if before.stable != rollout.candidate:
            raise IllegalTransition(rollout.phase, cause.command)
        after = replace(after, stable=quarantines.fallback(session, before), last_proven=None)
    digests = _own_digests(session, rollout, quarantine_parts)
    others = {surface: state for surface, state in states.items() if surface != rollout.surface}
    try:
        moves = quarantines.plan_moves(session, others, digests)
    except NoSafeVersion as error:
        digests, moves = [], []
        cause = replace(cause, reason=f"{cause.reason} (not quarantined: {error})")
    quarantines.confine(session, digests, by=cause.by, reason=cause.reason, now=cause.now)
    model_versions.mark_aborted(session, rollout.candidate, now=cause.now, because=cause.reason)
    rollout_rows.store(session, becomes, now=cause.now)
    changes.change(session, before, after, cause, was=rollout, becomes=becomes)
    for move in moves:
        quarantines.carry_out(session, move, replace(cause, command=quarantines.COMMAND))
    return becomes


def _own_digests(session: Session, rollout: Rollout, parts: Sequence[Part | str]) -> list[Digest]:
    """Those parts of the candidate that stable does not share: a shared one cannot be what differs."""
    if not parts:
        return []
    stable = model_versions.get(session, rollout.stable).manifest.version
    candidate = model_versions.get(session, rollout.candidate).manifest.version
    wanted = [(candidate.digest_of_part(Part(part)), stable.digest_of_part(Part(part))) for part in parts]
    return [digest for digest, shared in wanted if digest != shared]
