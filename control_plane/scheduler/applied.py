"""What a check came to, stored and carried out in one transaction."""

from datetime import datetime, timedelta

from control_plane.domain.decision import Decision, parts_to_quarantine
from control_plane.domain.rollout import Command
from control_plane.registry import changes, evidence, gates, model_versions, rollouts, surfaces
from control_plane.registry.session import Sessions
from control_plane.scheduler.judged import Judged
from control_plane.scheduler.loaded import Loaded

SCHEDULER = "scheduler"  # how its changes are signed in the history


def apply(
    sessions: Sessions,
    loaded: Loaded,
    judged: Judged | None,
    decision: Decision,
    *,
    now: datetime,
    epoch: int | None,
) -> Command | None:
    """Store the verdict and carry out the decision in one transaction, or neither; return the command that was.

    Where the candidate was found at home, it comes back under a new generation instead. Only a roll back does not
    wait for that.
    """
    rollout_id = loaded.rollout.rollout_id
    culprits = _parts_to_quarantine(sessions, loaded, judged, decision)
    with sessions.writing() as session:
        verdict_id = None
        if judged is None:
            changes.check_seen(surfaces.get(session, loaded.rollout.surface), loaded.generation)
            rollouts.set_next_check(session, rollout_id, now, epoch=epoch)
        else:
            verdict_id = evidence.record_verdict(
                session,
                rollout_id,
                judged.verdict,
                judged.inputs,
                now=now,
                next_check_at=now + timedelta(seconds=loaded.rollout.plan.check_seconds),
                epoch=epoch,
                seen_generation=loaded.generation,
            )
        if verdict_id is not None and _comes_back(loaded, judged, decision):
            rollouts.renew_watch(
                session,
                rollout_id,
                by=SCHEDULER,
                now=now,
                seen_generation=loaded.generation,
                verdict_id=verdict_id,
                epoch=epoch,
            )
            return None
        if decision.command is Command.START and gates.blocker(session, loaded.rollout, now=now) is not None:
            return None  # what is above it went back since it was loaded, and found nothing here to hold
        if decision.command is not None:
            rollouts.apply_command(
                session,
                rollout_id,
                decision.command,
                by=SCHEDULER,
                now=now,
                reason=decision.reason,
                seen_generation=loaded.generation,
                verdict_id=verdict_id,
                epoch=epoch,
                quarantine_parts=culprits,
                weight_bp=decision.weight_bp,
            )
    return decision.command


def _comes_back(loaded: Loaded, judged: Judged | None, decision: Decision) -> bool:
    """Whether a check was completed that found the candidate at home, and nothing speaks for leaving it there."""
    is_complete = judged is not None and judged.verdict.completes_check
    stays = decision.command is Command.ROLL_BACK or bool(loaded.readiness.frozen)
    return is_complete and not stays and loaded.is_at_home


def _parts_to_quarantine(
    sessions: Sessions, loaded: Loaded, judged: Judged | None, decision: Decision
) -> tuple[str, ...]:
    """Read only now: few checks end in a roll back."""
    wanted = loaded.rollout.plan.quarantine_on_rollback
    if judged is None or decision.command is not Command.ROLL_BACK or not wanted:
        return ()
    with sessions.reading() as session:
        candidate = model_versions.get(session, loaded.rollout.candidate).manifest.version
        stable = model_versions.get(session, loaded.rollout.stable).manifest.version
        proven = model_versions.proven_parts(session, candidate)
    return parts_to_quarantine(judged.verdict, candidate=candidate, stable=stable, proven=proven)
