"""What surfaces below one that goes home do with it, by their release's edges: planned first, then carried out.

All of it happens in the transaction of the surface that goes home. A roll back is never refused for what is below it:
where not every surface that should go back can, none of them does, those that serve are held, and the history says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from control_plane.domain.errors import NoSafeVersion, SurfaceBusy
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase, Rollout, apply
from control_plane.domain.surface_graph import aftermath
from control_plane.registry import changes, queues, release_rows, rollout_rows
from control_plane.registry import quarantine as quarantines
from control_plane.registry.changes import Cause
from control_plane.registry.quarantine import Move
from control_plane.registry.surfaces import SurfaceState

HOLDABLE = frozenset({Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING})


@dataclass(frozen=True, kw_only=True, slots=True)
class HandBack:
    """`back` goes home with the upstream, in that order; `held` stays where it is; `unqueued` loses its place in line.

    `note` says what could not be.
    """

    back: tuple[Move, ...] = ()
    held: tuple[Rollout, ...] = ()
    unqueued: tuple[Rollout, ...] = ()
    note: str = ""


def surfaces_with(session: Session, rollout: Rollout) -> list[Surface]:
    """The surfaces to lock before a rollout goes home: its own, and those of its release."""
    if rollout.release_id is None:
        return [rollout.surface]
    return list(release_rows.rollouts_of(session, rollout.release_id))


def plan(session: Session, states: Mapping[Surface, SurfaceState], ended: Iterable[Rollout]) -> HandBack:
    """What follows from rollouts that go home on surfaces which are not going anyway. Writes nothing.

    `states` are the locked surfaces; those of the rollouts' releases are among them.
    """
    going = {rollout.surface: rollout for rollout in ended}
    back: list[Move] = []
    held: list[Rollout] = []
    unqueued: list[Rollout] = []
    notes: list[str] = []
    for release_id in sorted({rollout.release_id for rollout in going.values() if rollout.release_id is not None}):
        gone = [rollout.surface for rollout in going.values() if rollout.release_id == release_id]
        found = _of_release(session, states, release_id, gone, set(going))
        back, held, unqueued = [*back, *found.back], [*held, *found.held], [*unqueued, *found.unqueued]
        notes += [found.note] if found.note else []
    return HandBack(back=tuple(back), held=tuple(held), unqueued=tuple(unqueued), note="; ".join(notes))


def carry_back(session: Session, planned: HandBack, cause: Cause, upstream: Surface) -> None:
    """Take the followers home, furthest downstream first. Like what leaves a quarantined digest they bear no stain:
    nothing was said against them, and they may be rolled out again."""
    for move in planned.back:
        quarantines.carry_out(session, move, _because(cause, upstream, Command.ROLL_BACK))


def stop(
    session: Session, states: Mapping[Surface, SurfaceState], planned: HandBack, cause: Cause, upstream: Surface
) -> None:
    """Hold the others where they are, until a person resumes them or takes them back, and end those in a queue.

    Comes last: a surface may have changed already in this transaction on which one of these is only queued.
    """
    for rollout in planned.held:
        becomes = apply(rollout, Command.HOLD, now=cause.now, by=cause.by)
        rollout_rows.store(session, becomes)
        state, held_because = states[rollout.surface], _because(cause, upstream, Command.HOLD)
        changes.change(session, state, state, held_because, was=rollout, becomes=becomes)
    for rollout in planned.unqueued:
        ended = apply(rollout, Command.ROLL_BACK, now=cause.now, by=cause.by)
        state = changes.lock_one(session, rollout.surface)
        queues.leave(session, state, rollout, ended, _because(cause, upstream, Command.ROLL_BACK))


def _of_release(
    session: Session,
    states: Mapping[Surface, SurfaceState],
    release_id: int,
    gone: Iterable[Surface],
    excluded: set[Surface],
) -> HandBack:
    release = release_rows.load(session, release_id)
    rollouts = release_rows.rollouts_of(session, release_id)
    after = aftermath(list(gone), release.edges)
    unqueued = tuple(rollouts[s] for s in after.go_back if rollouts[s].phase is Phase.QUEUED)
    following = [rollouts[surface] for surface in after.go_back if surface not in excluded]
    to_hold = [rollouts[surface] for surface in after.hold if surface not in excluded]
    note = ""
    try:
        moves = [_move(session, states[rollout.surface], rollout) for rollout in following]
    except (NoSafeVersion, SurfaceBusy) as error:
        moves, note = [], f"below it nothing was handed back: {error}"
        to_hold = [*following, *to_hold]
    held = [rollout for rollout in to_hold if rollout.phase in HOLDABLE]
    back = tuple(move for move in moves if move is not None)
    return HandBack(back=back, held=tuple(held), unqueued=unqueued, note=note)


def _move(session: Session, state: SurfaceState, rollout: Rollout) -> Move | None:
    """None where its candidate is no longer the surface's: rolled back, or replaced by a later one."""
    if state.rollout_id == rollout.rollout_id:
        return Move(before=state, after=state.without_candidate(), rollout=rollout)
    if rollout.phase is not Phase.DONE or state.stable != rollout.candidate:
        return None
    if state.rollout_id is not None:
        raise SurfaceBusy(state.surface, state.rollout_id)
    after = replace(state.without_candidate(), stable=quarantines.fallback(session, state), last_proven=None)
    return Move(before=state, after=after, rollout=rollout)


def _because(cause: Cause, upstream: Surface, command: Command) -> Cause:
    why = f": {cause.reason}" if cause.reason else ""
    return replace(cause, command=command.value, reason=f"{upstream} was rolled back{why}")
