"""What a command does to a rollout and its surface, once it is known to be allowed to come. Called by `rollouts`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.domain.errors import CoolingDown, IllegalTransition, MissingVerdict, NoSafeVersion
from control_plane.domain.model_version import Digest, Part, Surface, VersionId
from control_plane.domain.rollout import RESTART, Command, Phase, Rollout, approval_hint
from control_plane.domain.verdict import Outcome, Verdict
from control_plane.registry import changes, cool_down, hand_back, model_versions, queues, rollout_rows, runtimes
from control_plane.registry import quarantine as quarantines
from control_plane.registry.changes import Cause
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import VerdictRow

RENEW_WATCH = "renew_watch"  # in the history, beside `Command`s: a candidate that went home unwatched comes back
MAKE_WAY = "make_way"  # likewise: the rollout ends that was compared with a stable which goes back
BEGINS_STAGE = frozenset({Command.ADVANCE.value, Command.SKIP.value})
BEGINS_WATCH = BEGINS_STAGE | {RENEW_WATCH}
BEGINS_EVIDENCE = frozenset({Command.START.value, RESTART})
NEEDS_EVIDENCE = frozenset({Phase.SHADOW, Phase.RAMPING, Phase.WATCHING})


def check_evidence(session: Session, rollout: Rollout, state: SurfaceState, cause: Cause) -> None:
    """Refuse an advance without a passing verdict of the present generation, or without the step's approvals.

    A step that nothing monitors is left on its approvals alone: each of them is a person's, with a reason.
    """
    if rollout.phase not in NEEDS_EVIDENCE:
        return
    verdict = None if cause.verdict_id is None else session.get(VerdictRow, cause.verdict_id)
    if rollout.is_monitored and not _speaks_for(verdict, rollout, state):
        raise MissingVerdict(rollout.rollout_id)
    if rollout.approvals_needed:
        lacks = f"{rollout.phase} and lacks {rollout.approvals_needed} approval(s)"
        raise IllegalTransition(lacks, cause.command, hint=approval_hint(rollout))


def check_raise(session: Session, rollout: Rollout, becomes: Rollout, state: SurfaceState, cause: Cause) -> None:
    """Refuse a larger weight within a step without a verdict of the present generation that surely allows it."""
    verdict = None if cause.verdict_id is None else session.get(VerdictRow, cause.verdict_id)
    if verdict is not None and (verdict.rollout_id, verdict.generation) == (rollout.rollout_id, state.generation):
        safe_share_bp = Verdict.from_json(verdict.verdict).safe_share_bp
        if safe_share_bp is not None and becomes.candidate_bp <= safe_share_bp:
            return
    raise MissingVerdict(rollout.rollout_id)


def latest_verdict_id(session: Session, rollout: Rollout) -> int | None:
    """What a person's advance rests on, where they name no verdict."""
    query = select(func.max(VerdictRow.verdict_id)).where(VerdictRow.rollout_id == rollout.rollout_id)
    return session.scalar(query)


def check_cool_down(session: Session, rollout: Rollout, cause: Cause, *, is_person: bool) -> None:
    """Refuse to start what was rolled back a short while ago, unless a person gives a reason."""
    if is_person and cause.reason.strip():
        return
    found = cool_down.cooling(session, rollout, now=cause.now)
    if found is not None:
        raise CoolingDown(found.digest, until=f"{found.until:%Y-%m-%d %H:%M} UTC", rollout_id=rollout.rollout_id)


def go_on(session: Session, before: SurfaceState, rollout: Rollout, becomes: Rollout, cause: Cause) -> Rollout:
    """Any change but the way home."""
    generation = before.generation + 1
    if cause.command in BEGINS_EVIDENCE and becomes.started_at is not None:
        becomes = replace(becomes, first_generation=generation, stage_generation=generation)
        _note_start(session, becomes)
    elif cause.command in BEGINS_STAGE:
        becomes = replace(becomes, stage_generation=generation)
    rollout_rows.store(session, becomes)
    if cause.command in (Command.START, Command.RESUME, RESTART) and becomes.phase is not Phase.QUEUED:
        rollout_rows.set_next_check(session, becomes.rollout_id, cause.now)
    changes.change(session, before, _surface_with(before, becomes, cause), cause, was=rollout, becomes=becomes)
    return becomes


def go_home(
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
        if before.stable != rollout.candidate:
            raise IllegalTransition(rollout.phase, cause.command)
        lands_on = quarantines.fallback(session, before)
        if before.rollout_id is not None:
            made_by = f"rollout {rollout.rollout_id}, which made its stable,"
            states = make_way(session, states, before, because(cause, f"{made_by} is rolled back"))
            before = states[rollout.surface]
        after = replace(before.without_candidate(), stable=lands_on, last_proven=None)
    digests = _own_digests(session, rollout, after.stable, quarantine_parts)
    others = {surface: state for surface, state in states.items() if surface != rollout.surface}
    try:
        moves = quarantines.plan_moves(session, others, digests)
    except NoSafeVersion as error:
        digests, moves = [], []
        cause = replace(cause, reason=f"{cause.reason} (not quarantined: {error})")
    ended = [rollout, *(move.rollout for move in moves if move.rollout is not None)]
    following = hand_back.plan(session, states, ended)
    hand_back.carry_back(session, following, cause, rollout.surface)
    if following.note:
        cause = replace(cause, reason=f"{cause.reason} ({following.note})")
    quarantines.confine(session, digests, by=cause.by, reason=cause.reason, now=cause.now)
    model_versions.mark_aborted(session, rollout.candidate, now=cause.now, because=cause.reason)
    failpoints.reach("rollback.aborted")
    rollout_rows.store(session, becomes)
    changes.change(session, before, after, cause, was=rollout, becomes=becomes)
    for move in moves:
        quarantines.carry_out(session, move, replace(cause, command=quarantines.COMMAND))
    hand_back.stop(session, states, following, cause, rollout.surface)
    return becomes


def leave_queue(
    session: Session, states: Mapping[Surface, SurfaceState], rollout: Rollout, becomes: Rollout, cause: Cause
) -> Rollout:
    """The end of a rollout that never came to its surface, and by their edges' policies of what follows it."""
    following = hand_back.plan(session, states, [rollout])
    hand_back.carry_back(session, following, cause, rollout.surface)
    if following.note:
        cause = replace(cause, reason=f"{cause.reason} ({following.note})")
    queues.leave(session, states[rollout.surface], rollout, becomes, cause)
    hand_back.stop(session, states, following, cause, rollout.surface)
    return becomes


def surfaces_of(session: Session, rollout: Rollout, command: Command) -> list[Surface] | None:
    """Those that a command may change, to be locked together; None is all of them.

    Whose rollout stands on what is done, and what follows that one, is known only once they are locked.
    """
    if command not in (Command.ROLL_BACK, Command.ABORT):
        return [rollout.surface]
    return None if rollout.phase is Phase.DONE else hand_back.surfaces_with(session, rollout)


def make_way(
    session: Session, states: Mapping[Surface, SurfaceState], before: SurfaceState, cause: Cause
) -> dict[Surface, SurfaceState]:
    """End the rollout that a surface carries without a stain, for nothing was said against it; return what is then."""
    assert before.rollout_id is not None
    standing = rollout_rows.load(session, before.rollout_id)
    following = hand_back.plan(session, states, [standing])
    hand_back.carry_back(session, following, cause, before.surface)
    move = quarantines.Move(before=before, after=before.without_candidate(), rollout=standing)
    quarantines.carry_out(session, move, cause)
    hand_back.stop(session, states, following, cause, before.surface)
    return changes.lock(session, list(states))


def because(cause: Cause, what: str) -> Cause:
    """Why a rollout makes way: what happens to its surface, and why that does."""
    why = f": {cause.reason}" if cause.reason else ""
    return replace(cause, command=MAKE_WAY, reason=f"{what}{why}", verdict_id=None)


def move_off(
    session: Session, states: Mapping[Surface, SurfaceState], moves: Sequence[quarantines.Move], cause: Cause
) -> None:
    """Take surfaces off a quarantined digest, and with them what follows them."""
    ended = [move.rollout for move in moves if move.rollout is not None]
    following = hand_back.plan(session, states, ended)
    upstream = Surface(", ".join(rollout.surface for rollout in ended))
    hand_back.carry_back(session, following, cause, upstream)
    for move in moves:
        quarantines.carry_out(session, move, cause)
    hand_back.stop(session, states, following, cause, upstream)


def _surface_with(before: SurfaceState, rollout: Rollout, cause: Cause) -> SurfaceState:
    """The surface as the rollout's serving phase wants it. What gives the candidate weight begins a watch anew."""
    base = replace(before.without_candidate(), rollout_id=rollout.rollout_id)
    match rollout.serving_phase:
        case Phase.QUEUED:
            return before
        case Phase.PENDING:
            return base
        case Phase.WARMING | Phase.SHADOW:
            salt = _salt(before, rollout, cause)
            return replace(base, shadow=rollout.candidate, shadow_sample_bp=rollout.shadow_sample_bp, salt=salt)
        case Phase.RAMPING | Phase.WATCHING:
            return replace(
                base,
                candidate=rollout.candidate,
                candidate_bp=rollout.candidate_bp,
                unwatched_seconds=rollout.plan.unwatched_seconds,
                lease_renewed_at=cause.now if cause.command in BEGINS_WATCH else before.lease_renewed_at,
            )
        case Phase.DONE:
            return replace(base, rollout_id=None, stable=rollout.candidate, last_proven=before.stable)
        case Phase.HELD | Phase.EXPIRED | Phase.ROLLED_BACK:
            raise AssertionError(f"{rollout.serving_phase} is no serving phase of a rollout that goes on")


def _salt(before: SurfaceState, rollout: Rollout, cause: Cause) -> str:
    """Each rollout draws its users anew, and again when it is restarted: some of them have met the candidate."""
    own = f"{before.surface}/rollout/{rollout.rollout_id}"
    if cause.command == RESTART:
        return f"{own}/{rollout.first_generation}"
    return before.salt if before.salt.startswith(f"{own}/") else own


def _speaks_for(verdict: VerdictRow | None, rollout: Rollout, state: SurfaceState) -> bool:
    return (
        verdict is not None
        and verdict.rollout_id == rollout.rollout_id
        and verdict.outcome == Outcome.ADVANCE.value
        and verdict.generation == state.generation
    )


def _note_start(session: Session, rollout: Rollout) -> None:
    """Counts up to here are no evidence about this rollout."""
    row = rollout_rows.row_of(session, rollout.rollout_id)
    row.counts_at_start = {
        version: asdict(runtimes.total_counts(session, version)) for version in (rollout.stable, rollout.candidate)
    }
    session.flush()


def _own_digests(
    session: Session, rollout: Rollout, lands_on: VersionId | None, parts: Sequence[Part | str]
) -> list[Digest]:
    """Those parts of the candidate that stable does not share: a shared one cannot be what differs.

    Nor may one be quarantined that the surface lands on, which after an adoption is not the rollout's own stable.
    """
    if not parts:
        return []
    sound = {rollout.stable, lands_on} - {None}
    versions = [model_versions.get(session, version_id).manifest.version for version_id in sound if version_id]
    candidate = model_versions.get(session, rollout.candidate).manifest.version
    return [
        candidate.digest_of_part(Part(part))
        for part in parts
        if all(candidate.digest_of_part(Part(part)) != version.digest_of_part(Part(part)) for version in versions)
    ]
