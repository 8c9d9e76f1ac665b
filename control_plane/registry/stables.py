"""What is stable on a surface, set without a rollout: its beginning, an adoption by hand, and the way back."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane.domain.errors import AlreadyExists, InvalidField
from control_plane.domain.model_version import Surface, VersionId, ViewType, check_name
from control_plane.domain.rollout import Command
from control_plane.registry import (
    changes,
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
from control_plane.registry.tables import SurfaceRow

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
        rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by=by, now=now, reason=reason)
        return surfaces.get(session, surface)
    after = replace(state, stable=quarantines.fallback(session, state), last_proven=None)
    assert state.stable is not None
    model_versions.mark_aborted(session, state.stable, now=now, because=reason)
    return changes.change(session, state, after, Cause(command=Command.ROLL_BACK.value, by=by, reason=reason, now=now))


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
