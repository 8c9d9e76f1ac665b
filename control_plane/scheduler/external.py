"""Reads the external metrics of every rollout that is due, before any of them is checked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from types import MappingProxyType

from control_plane.domain.errors import ControlPlaneError, StaleGeneration
from control_plane.domain.plan import ExternalPlan
from control_plane.domain.readings import Reading
from control_plane.domain.rollout import Phase, Rollout, RolloutId
from control_plane.providers.asking import read_all
from control_plane.providers.contract import Subject
from control_plane.providers.errand import Question
from control_plane.providers.sources import Source
from control_plane.registry import check_rows, rollouts, surfaces
from control_plane.registry.session import Sessions

NO_SOURCES: Mapping[str, Source] = MappingProxyType({})
DAMAGED = (ControlPlaneError, LookupError, TypeError, ValueError)  # what a row that cannot be read raises


@dataclass(frozen=True, kw_only=True, slots=True)
class External:
    """What other systems said of one rollout, as it stood then."""

    subject: Subject
    readings: tuple[Reading, ...]

    def of(self, rollout: Rollout, *, generation: int) -> tuple[Reading, ...]:
        """The readings; `StaleGeneration` if someone has moved since they were taken."""
        subject = _subject(rollout, generation, self.subject.now)
        if subject != self.subject:
            raise StaleGeneration(subject.surface, seen=self.subject.generation, current=subject.generation)
        return self.readings


def read_external(
    sessions: Sessions,
    sources: Mapping[str, Source],
    due: Sequence[RolloutId],
    *,
    phases: Collection[Phase],
    now: datetime,
) -> dict[RolloutId, External]:
    """Readings of each due rollout whose plan has external metrics; none where it is in another phase than these.

    Taken of all at once: one after another, a thousand rollouts would wait a thousand times for a slow source. No
    session is open while sources are asked.
    """
    wanted = _wanted(sessions, due, phases, now=now)
    questions = [Question(metric=metric, subject=subject) for subject, metrics in wanted.values() for metric in metrics]
    readings = iter(read_all(sources, questions))
    return {
        rollout_id: External(subject=subject, readings=tuple(islice(readings, len(metrics))))
        for rollout_id, (subject, metrics) in wanted.items()
    }


def _wanted(
    sessions: Sessions, due: Sequence[RolloutId], phases: Collection[Phase], *, now: datetime
) -> dict[RolloutId, tuple[Subject, tuple[ExternalPlan, ...]]]:
    wanted: dict[RolloutId, tuple[Subject, tuple[ExternalPlan, ...]]] = {}
    with sessions.reading() as session:
        for rollout_id in check_rows.with_external_metrics(session, due):
            try:
                rollout = rollouts.get(session, rollout_id)
                generation = surfaces.get(session, rollout.surface).generation
                subject = _subject(rollout, generation, now)
                wanted[rollout_id] = subject, rollout.plan.external if rollout.serving_phase in phases else ()
            except DAMAGED:
                continue  # its check will fail on the same row, and say so
    return wanted


def _subject(rollout: Rollout, generation: int, now: datetime) -> Subject:
    return Subject(
        surface=rollout.surface,
        candidate=rollout.candidate,
        stable=rollout.stable,
        generation=generation,
        since=rollout.started_at if rollout.started_at is not None else rollout.created_at,
        now=now,
    )
