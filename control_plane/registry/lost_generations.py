"""After a restore: runtimes may hold generations that the backup did not have yet, and a runtime never goes back."""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane.domain.errors import InvalidField, MissingReason, SurfaceBusy
from control_plane.domain.model_version import Surface
from control_plane.registry import changes, surfaces
from control_plane.registry.changes import Cause
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import RuntimeRow

COMMAND = "pass_over"  # its name in the history
MOST = 100_000  # generations, more than any backup is old


def problems(session: Session) -> Iterator[str]:
    """Runtimes that serve what the registry does not know of."""
    for state in surfaces.list_surfaces(session):
        for runtime_id, generation in _told(session, state.surface).items():
            if generation > state.generation:
                yield (
                    f"{state.surface}: {runtime_id} serves generation {generation}, which this registry has lost; "
                    f"`surefoot db pass-over {state.surface}` goes past it"
                )


def pass_over(
    session: Session, surface: Surface, generation: int | None, *, by: str, reason: str, now: datetime
) -> SurfaceState:
    """Bring a surface past `generation`, each lost one with its row, so that the chain has no gap.

    The highest that runtimes have told of if None. What serves stays what it is.

    Raises:
        SurfaceBusy: what was counted in a lost generation is no evidence for a rollout; end it first.
        UnknownName, InvalidField, MissingReason.
    """
    if not reason.strip():
        raise MissingReason(COMMAND)
    state = changes.lock_one(session, surface)
    if state.rollout_id is not None:
        raise SurfaceBusy(surface, state.rollout_id)
    last = max(_told(session, surface).values(), default=0) if generation is None else generation
    if last > state.generation + MOST:
        raise InvalidField("generation", f"must be at most {state.generation + MOST}")
    while state.generation <= last:
        state = changes.change(session, state, state, Cause(command=COMMAND, by=by, reason=reason, now=now))
    return state


def _told(session: Session, surface: Surface) -> dict[str, int]:
    rows = session.execute(select(RuntimeRow.runtime_id, RuntimeRow.generations).order_by(RuntimeRow.runtime_id))
    return {row.runtime_id: row.generations[surface] for row in rows if surface in row.generations}
