"""Whether a registry is what it must be: its file, its references, its chain, and what serves."""

from collections.abc import Callable, Iterator

from sqlalchemy import ForeignKeyConstraint, and_, func, select, text
from sqlalchemy.orm import Session

from control_plane.domain.errors import Quarantined, UnknownName
from control_plane.domain.model_version import digest_of
from control_plane.domain.rollout import ACTIVE, Rollout
from control_plane.registry import history, lost_generations, model_versions, rollouts, surfaces
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import Base, VerdictInputsRow

ROWS_AT_ONCE = 50
MOST_TOLD = 5  # of one kind of damage to a file

OnProgress = Callable[[int], None]


def steps(session: Session) -> int:
    """How many steps `problems` will tell of."""
    return history.count(session) + (session.scalar(select(func.count()).select_from(VerdictInputsRow)) or 0)


def problems(session: Session, on_progress: OnProgress = lambda steps: None) -> Iterator[str]:
    """What is wrong, in words; of one moment, and in memory that does not grow with the registry."""
    yield from _damage(session)
    yield from _dangling(session)
    yield from history.verify(session, on_progress)
    yield from _altered_inputs(session, on_progress)
    active = rollouts.list_rollouts(session, active_only=True)
    for state in surfaces.list_surfaces(session):
        own = [rollout for rollout in active if rollout.surface == state.surface]
        yield from (f"{state.surface}: {problem}" for problem in _rollout_problems(state, own))
        yield from (f"{state.surface}: {problem}" for problem in _serving_problems(session, state))
    yield from lost_generations.problems(session)


def _damage(session: Session) -> Iterator[str]:
    """PostgreSQL checks its pages when it reads them, which what follows does."""
    if session.get_bind().dialect.name == "sqlite":
        for (found,) in session.execute(text(f"PRAGMA integrity_check({MOST_TOLD})")):
            if found != "ok":
                yield f"the file is damaged: {found}"


def _dangling(session: Session) -> Iterator[str]:
    for table in Base.metadata.sorted_tables:
        for constraint in table.constraints:
            if isinstance(constraint, ForeignKeyConstraint):
                lost = _without_parent(session, constraint)
                if lost:
                    yield f"{lost} row(s) of {table.name} refer to a {constraint.referred_table.name} that is missing"


def _without_parent(session: Session, constraint: ForeignKeyConstraint) -> int:
    parent = constraint.referred_table.alias("parent")
    pairs = [(element.parent, parent.c[element.column.name]) for element in constraint.elements]
    refers = and_(*(child.is_not(None) for child, _ in pairs))
    has_parent = select(1).where(*(child == column for child, column in pairs)).exists()
    return session.scalar(select(func.count()).select_from(constraint.table).where(refers, ~has_parent)) or 0


def _altered_inputs(session: Session, on_progress: OnProgress) -> Iterator[str]:
    table = VerdictInputsRow.__table__
    query = select(table.c.digest, table.c.content, table.c.pruned_at)
    for row in session.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
        if row.pruned_at is None and digest_of(bytes(row.content)) != row.digest:
            yield f"the inputs of a verdict, {row.digest}, were altered"
        on_progress(1)


def _rollout_problems(state: SurfaceState, active: list[Rollout]) -> Iterator[str]:
    numbers = ", ".join(str(rollout.rollout_id) for rollout in active)
    if len(active) > 1:
        yield f"carries more than one rollout: {numbers}"
    elif [rollout.rollout_id for rollout in active] != [number for number in (state.rollout_id,) if number is not None]:
        yield f"says that it carries rollout {state.rollout_id}, those on their way are: {numbers or 'none'}"
    elif active:
        yield from _weight_problems(state, active[0])
    elif state.candidate_bp or state.candidate is not None or state.shadow is not None:
        yield "has a candidate or a shadow without a rollout"


def _weight_problems(state: SurfaceState, rollout: Rollout) -> Iterator[str]:
    if rollout.phase in ACTIVE and rollout.candidate_bp != state.candidate_bp:
        share = f"{rollout.candidate_bp} bp in rollout {rollout.rollout_id}"
        yield f"serves its candidate at {state.candidate_bp} bp, which is at {share}"
    if state.candidate not in (None, rollout.candidate) or state.shadow not in (None, rollout.candidate):
        yield f"serves {state.candidate or state.shadow}, which is not the candidate of rollout {rollout.rollout_id}"


def _serving_problems(session: Session, state: SurfaceState) -> Iterator[str]:
    for version_id in {state.stable, state.candidate, state.shadow} - {None}:
        assert version_id is not None
        try:
            model_versions.check_may_serve(session, version_id, state.surface)
        except (Quarantined, UnknownName) as error:
            yield f"serves {version_id}, which may not serve: {error}"
