"""Events that people subscribe to: where a rollout goes, and what may serve nowhere."""

from datetime import datetime

from sqlalchemy.orm import Session

from control_plane.domain import event_types
from control_plane.domain.model_version import Digest
from control_plane.domain.rollout import Phase, Rollout
from control_plane.registry import outbox


def rollout_moved(
    session: Session,
    was: Rollout | None,
    becomes: Rollout | None,
    *,
    generation: int,
    command: str,
    by: str,
    reason: str,
    verdict_id: int | None,
    at: datetime,
) -> None:
    """Tell of a rollout that came to another phase, step or weight, or began anew; of nothing else that happened."""
    kind = None if becomes is None else _kind(was, becomes)
    if becomes is None or kind is None:
        return
    outbox.append(
        session,
        event_id=f"{becomes.surface}/{generation}/rollout/{becomes.rollout_id}",
        kind=kind,
        subject=becomes.surface,
        at=at,
        data={
            **_described(becomes),
            "from": None if was is None else was.phase.value,
            "generation": generation,
            "command": command,
            "by": by,
            "reason": reason,
            "verdict_id": verdict_id,
        },
    )


def quarantined(
    session: Session, quarantine_id: int, digest: Digest, *, by: str, reason: str, at: datetime, is_released: bool
) -> None:
    """Tell that a digest went into quarantine, or out of it again."""
    outbox.append(
        session,
        event_id=f"quarantine/{quarantine_id}/{'released' if is_released else 'added'}",
        kind=event_types.RELEASED if is_released else event_types.QUARANTINED,
        subject=digest,
        at=at,
        data={"digest": digest, "by": by, "reason": reason},
    )


def _kind(was: Rollout | None, becomes: Rollout) -> str | None:
    if was is None or _stage(was) != _stage(becomes):
        return f"{event_types.ROLLOUT}.{becomes.phase.value}"
    return event_types.RAISED if becomes.candidate_bp > was.candidate_bp else None


def _stage(rollout: Rollout) -> tuple[Phase, int, int]:
    return rollout.phase, rollout.step, rollout.first_generation


def _described(rollout: Rollout) -> dict[str, object]:
    return {
        "rollout_id": rollout.rollout_id,
        "surface": rollout.surface,
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "plan": rollout.plan.name,
        "phase": rollout.phase.value,
        "step": rollout.step,
        "num_steps": len(rollout.plan.steps),
        "candidate_bp": 0 if rollout.phase is Phase.ROLLED_BACK else rollout.candidate_bp,
        "release_id": rollout.release_id,
    }
