"""One surface: what has which role on it, what its rollout waits for, where its roll-back button leads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup
from sqlalchemy.orm import Session

from control_plane.admin import charts, wording
from control_plane.admin.approvals import approvals_of
from control_plane.admin.history import withdrawn
from control_plane.admin.wording import Chip
from control_plane.api.standing import Standing
from control_plane.domain.model_version import VersionId
from control_plane.domain.rollout import FINISHED, Phase, Rollout
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.registry import history, rollouts, stables
from control_plane.registry.history import Entry
from control_plane.registry.model_versions import VersionRecord
from control_plane.registry.runtimes import Runtime
from control_plane.registry.surfaces import SurfaceState

ENDINGS = {
    "abort": "withdrawn",
    "dequeue": "ended in the queue",
    "quarantine": "rolled back, since a part of it was quarantined,",
}
SPEAKS_FOR_ITSELF = ("waiting", "held", "expired", "loading", "finished", "queued", "frozen", "cooling down")


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """A surface without an active rollout: its last one, how that ended, and whether it was just rolled back."""

    last: Rollout | None
    ending: str
    is_withdrawn: bool
    is_home: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """One cell of the grid: a role on a surface and the version that has it."""

    name: str
    version_id: VersionId | None
    training_run: str = ""
    share: str = ""
    share_note: str = ""
    note: str = ""
    swatch: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class WayBack:
    """Where the roll-back button leads; without a version, `words` say why it is not there to be pressed."""

    version_id: VersionId | None
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceCard:
    """One row of the grid; chip and rollout are the active rollout's, or else the last one's."""

    surface: str
    generation: int
    changed_at: datetime
    roles: tuple[Role, ...]
    traffic: Markup
    chip: Chip | None
    sentence: str
    rollout_id: int | None
    plan_name: str
    is_active: bool
    way_back: WayBack
    acknowledged: str
    queued: tuple[Rollout, ...]
    approvals: str


def surface_card(
    state: SurfaceState,
    at: Standing | Idle,
    *,
    records: Mapping[VersionId, VersionRecord],
    live: Sequence[Runtime],
    now: datetime,
    queued: Sequence[Rollout] = (),
) -> SurfaceCard:
    """`queued` are the rollouts that wait for this surface to be free, the next one first."""
    rollout = at.rollout if isinstance(at, Standing) else at.last
    following = sum(runtime.generations.get(state.surface) == state.generation for runtime in live)
    return SurfaceCard(
        surface=state.surface,
        generation=state.generation,
        changed_at=state.changed_at,
        roles=_roles(state, records, _acknowledged_words(at)),
        traffic=charts.traffic_bar(state.candidate_bp),
        chip=None if rollout is None else wording.phase_chip(rollout, is_withdrawn=_is_withdrawn(at)),
        sentence=_sentence(state, at, now),
        rollout_id=None if rollout is None else rollout.rollout_id,
        plan_name="" if rollout is None else rollout.plan.name,
        is_active=isinstance(at, Standing),
        way_back=_way_back(state, at),
        acknowledged=f"generation {state.generation} on {following} of {len(live)} runtimes",
        queued=tuple(queued),
        approvals=_approvals(at),
    )


def idle(session: Session, state: SurfaceState) -> Idle:
    finished = [found for found in rollouts.list_rollouts(session, surface=state.surface) if found.phase in FINISHED]
    last = max(finished, key=lambda rollout: rollout.rollout_id, default=None)
    changes = history.list_history(session, state.surface)
    return Idle(
        last=last,
        ending="" if last is None else ending_words(last, changes),
        is_withdrawn=last is not None and last.rollout_id in withdrawn(changes),
        is_home=bool(changes) and changes[0].command in stables.GOING_HOME,
    )


def ending_words(rollout: Rollout, changes: Sequence[Entry]) -> str:
    """Who ended a finished rollout, and why, as they said; `changes` are the surface's, the latest first."""
    end = next((change for change in changes if change.rollout_id == rollout.rollout_id), None)
    if rollout.phase is Phase.DONE:
        what = "done, the candidate became stable"
    else:
        what = "rolled back" if end is None else ENDINGS.get(end.command, "rolled back")
    if end is None:
        return f"{what}."
    reason = f": {end.reason.rstrip('.')}" if end.reason and rollout.phase is Phase.ROLLED_BACK else ""
    return f"{what} by {end.by}{reason}."


def waiting_sentence(standing: Standing, now: datetime) -> str:
    """What it waits for and until about when, as one sentence."""
    words = standing.waiting_for or "finished"
    if not words.startswith(SPEAKS_FOR_ITSELF):
        words = f"waiting: {words}"
    until = wording.about_until(standing.until, now)
    sentence = f"{words.rstrip('.')}{' – ' + until if until else ''}."
    return sentence[0].upper() + sentence[1:]


def _is_withdrawn(at: Standing | Idle) -> bool:
    return isinstance(at, Idle) and at.is_withdrawn


def _approvals(at: Standing | Idle) -> str:
    approvals = approvals_of(at.rollout) if isinstance(at, Standing) else None
    return "" if approvals is None else approvals.words


def _acknowledged_words(at: Standing | Idle) -> str:
    """Beside the weight that is set; runtimes may lag behind it, or be cut off."""
    if not isinstance(at, Standing) or not at.rollout.candidate_bp:
        return ""
    return f"set; {wording.share(at.acknowledged_bp)} acknowledged"


def _roles(state: SurfaceState, records: Mapping[VersionId, VersionRecord], acknowledged: str) -> tuple[Role, ...]:
    def role(name: str, version_id: VersionId | None, **words: str) -> Role:
        run = records[version_id].manifest.training_run if version_id is not None and version_id in records else ""
        return Role(name=name, version_id=version_id, training_run=run, **words)

    stable_share = wording.share(FULL_TRAFFIC_BP - state.candidate_bp) if state.stable else ""
    candidate_share = wording.share(state.candidate_bp) if state.candidate else ""
    sampled = f"scores {wording.share(state.shadow_sample_bp)} of requests" if state.shadow_sample_bp else "loading"
    return (
        role("Stable", state.stable, share=stable_share, swatch="stable"),
        role("Candidate", state.candidate, share=candidate_share, share_note=acknowledged, swatch="candidate"),
        role("Shadow", state.shadow, note=sampled if state.shadow else ""),
        role("Last proven", state.last_proven),
    )


def _sentence(state: SurfaceState, at: Standing | Idle, now: datetime) -> str:
    if isinstance(at, Standing):
        return waiting_sentence(at, now)
    if state.stable is None:
        return "Nothing serves here yet: adopt a version as stable."
    if at.last is None:
        return "No rollout yet. All traffic is on stable."
    return f"All traffic is on stable. The last rollout ended {wording.ago(at.last.entered_at, now)}: {at.ending}"


def _way_back(state: SurfaceState, at: Standing | Idle) -> WayBack:
    if isinstance(at, Standing):
        if state.candidate_bp or state.last_proven is None:
            return WayBack(version_id=state.stable, words="to stable")
        return WayBack(version_id=state.last_proven, words="to last proven")
    if at.is_home:
        return WayBack(version_id=None, words="already rolled back: to leave this stable too, adopt another version")
    if state.last_proven is None:
        return WayBack(version_id=None, words="nothing to go back to")
    return WayBack(version_id=state.last_proven, words="to last proven")
