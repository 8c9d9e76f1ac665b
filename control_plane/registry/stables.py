"""What is stable on a surface, set without a rollout: its beginning, an adoption by hand, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane.domain.errors import AlreadyExists, InvalidField, NoSafeVersion
from control_plane.domain.model_version import Surface, VersionId, ViewType, check_name
from control_plane.domain.rollout import RESTART, Command
from control_plane.registry import (
    changes,
    commands,
    history,
    model_versions,
    rollout_rows,
    rollouts,
    surfaces,
)
from control_plane.registry import (
    quarantine as quarantines,
)
from control_plane.registry.changes import Cause
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import SplitRow, SurfaceRow

CREATE_SURFACE, ADOPT = "create_surface", "adopt"  # in the history, beside `Command`s
GOING_HOME = frozenset({Command.ROLL_BACK.value, Command.ABORT.value, quarantines.COMMAND})


def create_surface(
    session: Session, surface: Surface, view_types: Sequence[ViewType], *, by: str, now: datetime
) -> SurfaceState:
    """Make a surface, at generation 0; making it again with the same view types changes nothing."""
    _check_surface(surface, view_types)
    known = session.get(SurfaceRow, surface, populate_existing=True)
    if known is not None:
        if list(known.view_types) != list(view_types):
            raise AlreadyExists("surface", surface, differs="view types")
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
    changes.refuse_busy(before)
    model_versions.check_may_serve(session, version_id, surface)
    after = replace(before, stable=version_id, last_proven=before.stable)
    return changes.change(session, before, after, Cause(command=ADOPT, by=by, reason=reason, now=now))


def roll_back_surface(
    session: Session, surface: Surface, *, by: str, reason: str, now: datetime, seen_generation: int | None = None
) -> SurfaceState:
    """Take back what users got last: a candidate with weight or, without one, stable, for the last proven version.

    A rollout whose candidate answers nobody ends with the stable that it is compared with, without a stain; so it does
    where stable has nothing to go back to. Where users were taken home last, by whomever, stable stays: two people who
    press at once do not go back two versions. Who gives the present generation as seen has seen that, and means stable.

    Raises:
        StaleGeneration: stable would go, and was another when the caller looked.
        NoSafeVersion: nothing is on its way, and stable has nothing to go back to.
    """
    states = changes.lock(session)
    state = states.get(surface) or surfaces.get(session, surface)
    cause = Cause(command=Command.ROLL_BACK.value, by=by, reason=reason, now=now)
    if state.candidate_bp and state.rollout_id is not None:
        rollouts.apply_command(session, state.rollout_id, Command.ROLL_BACK, by=by, now=now, reason=reason)
    elif seen_generation != state.generation and _is_back(session, state):
        _end_standing(session, states, state, cause)
    elif state.rollout_id is None or has_way_back(session, state):
        changes.check_seen(state, seen_generation)
        _leave_stable(session, states, state, cause)
    else:
        _end_standing(session, states, state, cause)
    return surfaces.get(session, surface)


def is_home(session: Session, state: SurfaceState) -> bool:
    """Whether the last change of what users get took them home; a restart does, too."""
    command = history.command_of(session, state.surface, _last_served_change(session, state))
    return command in GOING_HOME or command == RESTART


def has_way_back(session: Session, state: SurfaceState) -> bool:
    """Whether stable has a last proven version that may serve still."""
    try:
        quarantines.fallback(session, state)
    except NoSafeVersion:
        return False
    return True


def _is_back(session: Session, state: SurfaceState) -> bool:
    """Whether an earlier press, or the like of it, has done what this one may do."""
    if is_home(session, state):
        return True
    ended_last = history.last_command(session, state.surface) in {*GOING_HOME, commands.MAKE_WAY}
    return ended_last and not has_way_back(session, state)


def _last_served_change(session: Session, state: SurfaceState) -> int:
    """The generation that gave users what they get now; what goes on in the shadow or in a queue is none."""
    other = or_(SplitRow.stable != state.stable, SplitRow.candidate_bp != state.candidate_bp)
    query = select(func.max(SplitRow.generation)).where(SplitRow.surface == state.surface, other)
    return (session.scalar(query) or 0) + 1


def _end_standing(session: Session, states: Mapping[Surface, SurfaceState], state: SurfaceState, cause: Cause) -> None:
    """Nothing changes for users, and where nothing is on its way nothing changes at all."""
    if state.rollout_id is not None:
        commands.make_way(session, states, state, commands.because(cause, f"{state.surface} is rolled back"))


def _leave_stable(session: Session, states: Mapping[Surface, SurfaceState], state: SurfaceState, cause: Cause) -> None:
    made = None if state.stable is None else rollout_rows.latest_done_with(session, state.surface, state.stable)
    if made is not None:
        rollouts.apply_command(
            session, made.rollout_id, Command.ROLL_BACK, by=cause.by, now=cause.now, reason=cause.reason
        )
        return
    leaves, lands_on = state.stable, quarantines.fallback(session, state)
    assert leaves is not None, "what had something stable before has something stable"
    if state.rollout_id is not None:
        why = commands.because(cause, f"{state.surface}'s stable is rolled back")
        state = commands.make_way(session, states, state, why)[state.surface]
    model_versions.mark_aborted(session, leaves, now=cause.now, because=cause.reason)
    changes.change(session, state, replace(state, stable=lands_on, last_proven=None), cause)


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
