"""What one rollout's page shows."""

import math
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup
from sqlalchemy.orm import Session

from control_plane.admin import charts, metrics, wording
from control_plane.admin.approvals import Approvals, approvals_of
from control_plane.admin.history import withdrawn
from control_plane.admin.metrics import BinRow, SegmentRow, Tile
from control_plane.admin.surface_card import ending_words, waiting_sentence
from control_plane.admin.timeline import TimelineStep, timeline
from control_plane.admin.told import Told, told_of
from control_plane.admin.wording import Chip
from control_plane.api.standing import Standing, standing_of
from control_plane.domain.decision import ACKNOWLEDGED_SHARE
from control_plane.domain.errors import IllegalTransition
from control_plane.domain.model_version import Part, VersionId
from control_plane.domain.rollout import FINISHED, Command, Phase, Rollout, RolloutId, apply
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.guardrails.explain import explain
from control_plane.guardrails.replay import unpack
from control_plane.registry import evidence, history, model_versions, rollouts, runtimes, surfaces
from control_plane.registry.evidence import StoredVerdict
from control_plane.registry.history import Entry
from control_plane.registry.runtimes import Runtime

BY_HAND = (Command.START, Command.SKIP, Command.HOLD, Command.RESUME, Command.APPROVE, Command.ABORT)
SOMEBODY = "somebody else"  # than the rollout's creator, and of every group: who presses is not known yet
HISTORY_SHOWN = 50
HISTORY_READ = 1_000  # of the surface: the rollout may have ended long ago


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the latest verdict says, with charts; `log_e_words` is the rollback evidence of all findings together."""

    verdict_id: int
    at: datetime
    outcome: Chip
    rule: str
    reason: str
    explanation: str
    tiles: tuple[Tile, ...]
    segments: tuple[SegmentRow, ...]
    calibration: Markup
    bins: tuple[BinRow, ...]
    told: Told
    rollback_bar: Markup
    rollback_words: str
    sample_ratio_bar: Markup
    sample_ratio_words: str
    users: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutPage:
    rollout: Rollout
    generation: int
    chip: Chip
    sentence: str
    seconds_here: float
    is_finished: bool
    steps: tuple[TimelineStep, ...]
    training_runs: dict[VersionId, str]
    is_calibrator_only: bool
    traffic: Markup
    stable_bp: int
    acknowledged: str
    acknowledged_bp: int
    stage_words: str
    approvals: Approvals | None
    behind: tuple[Rollout, ...]
    live: tuple[Runtime, ...]
    commands: tuple[Command, ...]
    can_roll_back: bool
    can_restart: bool
    evidence: Evidence | None
    changes: tuple[Entry, ...]
    verdicts: tuple[StoredVerdict, ...]


def load_rollout(session: Session, rollout_id: RolloutId, *, now: datetime, live_since: datetime) -> RolloutPage:
    rollout = rollouts.get(session, rollout_id)
    standing = standing_of(session, rollout, now=now, live_since=live_since)
    state = surfaces.get(session, rollout.surface)
    verdicts = evidence.list_verdicts(session, rollout_id, metrics.MAX_LOOKS)
    changes = [
        entry
        for entry in history.list_history(session, rollout.surface, limit=HISTORY_READ)
        if entry.rollout_id == rollout_id
    ]
    is_finished = rollout.phase in FINISHED
    return RolloutPage(
        rollout=rollout,
        generation=standing.generation,
        chip=wording.phase_chip(rollout, is_withdrawn=rollout_id in withdrawn(changes)),
        sentence=_sentence(ending_words(rollout, changes)) + "." if is_finished else waiting_sentence(standing, now),
        seconds_here=(now - rollout.entered_at).total_seconds(),
        is_finished=is_finished,
        steps=timeline(rollout, changes),
        training_runs=_training_runs(session, rollout),
        is_calibrator_only=standing.changed_parts == (Part.CALIBRATOR,),
        traffic=charts.traffic_bar(rollout.candidate_bp),
        stable_bp=FULL_TRAFFIC_BP - rollout.candidate_bp,
        acknowledged=_acknowledged(standing),
        acknowledged_bp=standing.acknowledged_bp,
        stage_words=_stage_words(rollout, now),
        approvals=approvals_of(rollout, changes),
        behind=() if is_finished else _behind(session, rollout),
        live=tuple(runtimes.live(session, since=live_since)),
        commands=legal_commands(rollout, now),
        can_roll_back=not is_finished or (state.stable == rollout.candidate and state.last_proven is not None),
        can_restart=not is_finished and rollout.phase not in (Phase.QUEUED, Phase.PENDING),
        evidence=None if standing.verdict is None else load_evidence(session, standing.verdict, rollout, verdicts),
        changes=tuple(changes[:HISTORY_SHOWN]),
        verdicts=tuple(verdicts[:HISTORY_SHOWN]),
    )


def load_evidence(session: Session, stored: StoredVerdict, rollout: Rollout, verdicts: list[StoredVerdict]) -> Evidence:
    """`verdicts` are the rollout's, the latest first."""
    verdict = stored.verdict
    earlier = [(look.verdict.as_of_ms, look.verdict) for look in reversed(verdicts)]
    moments = unpack(evidence.inputs(session, stored.verdict_id)).moments
    plot, bins = metrics.reliability(moments, is_shadow=verdict.phase == Phase.SHADOW)
    split_at = math.log(rollout.plan.judge.sample_ratio_threshold)
    split_words = f"log E {wording.number(verdict.log_e_sample_ratio)} of {wording.number(split_at)}"
    words = f"log E {wording.number(verdict.log_e_rollback)} of {wording.number(verdict.log_e_threshold)}"
    return Evidence(
        verdict_id=stored.verdict_id,
        at=stored.at,
        outcome=wording.OUTCOME_CHIPS[verdict.outcome],
        rule=wording.RULE_WORDS[verdict.rule],
        reason=_sentence(verdict.reason),
        explanation=explain(verdict),
        tiles=metrics.tiles(verdict, earlier, rollout.plan),
        segments=metrics.segment_rows(verdict),
        calibration=plot,
        bins=bins,
        told=told_of(verdict),
        rollback_bar=charts.progress_bar(
            verdict.log_e_rollback, verdict.log_e_threshold, kind="harm", words=f"evidence for rolling back: {words}"
        ),
        rollback_words=words,
        sample_ratio_bar=charts.progress_bar(
            verdict.log_e_sample_ratio, split_at, kind="harm", words=f"evidence of an uneven split: {split_words}"
        ),
        sample_ratio_words=split_words,
        users=(verdict.users_stable, verdict.users_candidate),
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".")


def legal_commands(rollout: Rollout, now: datetime) -> tuple[Command, ...]:
    """The commands that the phase takes and that would change something, in the order of their buttons."""
    return tuple(command for command in BY_HAND if _changes(rollout, command, now))


def _changes(rollout: Rollout, command: Command, now: datetime) -> bool:
    if command is Command.APPROVE and not rollout.approvals_needed:
        return False
    step = rollout.standing_step
    groups = frozenset() if step is None else frozenset({step.approval_group})
    try:
        return apply(rollout, command, now=now, by=SOMEBODY, reason="asked for", groups=groups) != rollout
    except IllegalTransition:
        return False


def _acknowledged(standing: Standing) -> str:
    if standing.live_runtimes == 0:
        return "no runtime has reported lately"
    return f"{standing.acknowledged_runtimes} of {standing.live_runtimes} runtimes"


def _behind(session: Session, rollout: Rollout) -> tuple[Rollout, ...]:
    """Those that come to the surface after this one, the next one first."""
    queued = rollouts.list_queued(session, rollout.surface)
    is_queued = rollout.phase is Phase.QUEUED
    return tuple(other for other in queued if not is_queued or other.rollout_id > rollout.rollout_id)


def _stage_words(rollout: Rollout, now: datetime) -> str:
    """Since when the present stage bakes; empty where there is none."""
    if rollout.serving_phase not in (Phase.SHADOW, Phase.RAMPING, Phase.WATCHING):
        return ""
    if rollout.stage_began_at is None:
        return f"this stage begins with {ACKNOWLEDGED_SHARE:.0%} of them"
    return f"this stage began at {wording.moment(rollout.stage_began_at, now)}"


def _training_runs(session: Session, rollout: Rollout) -> dict[VersionId, str]:
    return {
        version_id: model_versions.get(session, version_id).manifest.training_run
        for version_id in (rollout.stable, rollout.candidate)
    }
